package vmmconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeless/nodeless/pkg/hint"
)

// thpFolder is where the kernel is told of transparent huge pages (Documentation/admin-guide/mm/transhuge.rst).
const thpFolder = "/sys/kernel/mm/transparent_hugepage"

// thpFiles are about memory that is one process's alone, as of a Pod without volumes, and about memory that is shared, with virtiofsd for
// one, which most kernels begin with never. QEMU asks for huge pages for all of a guest's memory, so that "advise" has them there and
// leaves the rest of the host as it is.
var thpFiles = map[string]string{"enabled": "madvise", "shmem_enabled": "advise"}

// adviseHugePages sets what says never. What says more stays. It stays so when the server ends, until the next boot.
func adviseHugePages(folder string) error {
	for name, advise := range thpFiles {
		file := filepath.Join(folder, name)
		raw, err := os.ReadFile(file)
		if err == nil && (strings.Contains(string(raw), "[never]") || strings.Contains(string(raw), "[deny]")) {
			err = os.WriteFile(file, []byte(advise), 0o644)
		}
		if err != nil {
			return &hint.Error{Op: "use huge pages for guests", On: file, Err: err,
				Do: fmt.Sprintf("leave out --huge-pages=advise (huge-pages: keep), or boot a kernel that knows them, on the host itself: echo %s > %s", advise, file)}
		}
	}
	return nil
}
