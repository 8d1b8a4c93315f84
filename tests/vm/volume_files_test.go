package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fileDifference is how files of a volume may differ from those of a disk.
type fileDifference struct {
	line   *regexp.Regexp // of what filematrix prints
	reason string
}

var fileDifferences = []fileDifference{
	{regexp.MustCompile(`^\S+ xattr: ENOTSUP; `), "virtiofsd carries no attributes: a guest would set those by which the host's kernel gives rights"},
	{regexp.MustCompile(`^\S+ device: EPERM; `), "a guest makes no device in a folder of the host"},
	{regexp.MustCompile(`(collapse|insert)-range[^:]*: .*ENOTSUP`), "FUSE in the guest's kernel has no such call"},
	{regexp.MustCompile(`^tmpfile \S+: open: ENOTSUP, locally `), "virtiofsd makes no file without a name"},
	{regexp.MustCompile(`^\S+ chmod-setuid-write: .*; file 755 .*, locally .*; file 6755 `), "who writes to a setuid file takes the bit away, root too: the kernel asks for CAP_FSETID of the host's, which virtiofsd has not"},
	{regexp.MustCompile(`^rdonly fsync: EINVAL EINVAL; `), "EROFS, which an image is, has nothing to write out and says so"},
	{regexp.MustCompile(`\+direct .*, locally .*EINVAL`), "unaligned writes are passed on to the host, which writes them by its page cache"},
}

// allFiles is the environment variable that has every kind of volume tried with every way to open a file and with pairs of changes.
// Without it, as in CI, only an emptyDir is, and one in memory without pairs; the others go the same way through virtiofsd.
// `make robustness FAULT=largefiles` sets it.
const allFiles = "NODELESS_FILES_ALL"

// filesTime is how long filesAsOnADisk may take beyond what it takes in CI.
func filesTime() time.Duration {
	if os.Getenv(allFiles) == "" {
		return 0
	}
	return 15 * time.Minute // under TCG; nine were seen beside other work
}

// filesAsOnADisk does everything that filematrix knows to files of each kind of volume of a Pod, and to local files of a Pod:
// on its own disk, or in memory where the volume is.
func (s *space) filesAsOnADisk(pod string) {
	s.T.Helper()
	s.put(pod, fileMatrix(s.T), "/filematrix")
	s.in(pod, "main", "mkdir /local /dev/shm/local; for d in empty data own part memory host; do mkdir /$d/files; chmod g-s /$d/files; done; "+
		"cp /host/file /etc/passwd /memory; cp /settings/file /memory/setting; cp /keys/file /memory/key; cp /about/file /memory/about")
	few, inMemory := "-few ", ""
	if os.Getenv(allFiles) != "" {
		few, inMemory = "-pairs ", "-pairs "
	}
	for _, run := range []struct{ volume, args string }{
		{"emptyDir", "-pairs /empty/files /local"},
		{"emptyDir in memory", inMemory + "/memory/files /dev/shm/local"},
		{"claim", few + "/data/files /local"},
		{"part of a claim", few + "/part/files /local"},
		{"claim of the Pod's own", few + "/own/files /local"},
		{"hostPath", few + "/host/files /local"},
		{"hostPath to read", "-read-only /host-to-read/file /memory-to-read/file"},
		{"ConfigMap", "-read-only /settings/..data/file /memory-to-read/setting"},
		{"Secret", "-read-only /keys/..data/file /memory-to-read/key"},
		{"downward API", "-read-only /about/..data/file /memory-to-read/about"},
		{"image", "-read-only /tools/etc/passwd /memory-to-read/passwd"},
	} {
		s.T.Run(run.volume, func(t *testing.T) {
			out, tries := strings.TrimSpace(s.with(t).in(pod, "main", "/filematrix "+run.args)), ""
			lines := strings.Split(out, "\n")
			lines, tries = lines[:len(lines)-1], lines[len(lines)-1]
			if !strings.Contains(tries, " tries, ") {
				t.Fatalf("filematrix ends with %q", tries)
			}
			t.Log(tries)
			for _, line := range lines {
				if !accepted(line) {
					t.Error(line)
				}
			}
		})
	}
}

func accepted(line string) bool {
	for _, d := range fileDifferences {
		if d.line.MatchString(line) {
			return true
		}
	}
	return false
}

// fileMatrix compiles the program that is beside this test.
func fileMatrix(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "filematrix")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", file, "./filematrix")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile filematrix: %v\n%s", err, out)
	}
	return file
}

// put copies a program of the machine into a container's own disk.
func (s *space) put(pod, from, to string) {
	s.T.Helper()
	in, err := os.Open(from)
	if err != nil {
		s.T.Fatal(err)
	}
	defer in.Close()
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "-i", pod, "-c", "main", "--", "sh", "-c", "cat > "+to+" && chmod +x "+to)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		s.T.Fatalf("copy %s: %v\n%s", to, err, out)
	}
}
