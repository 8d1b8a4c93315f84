// Package script runs the built program the way a user at a shell does: a txtar file in testdata for each behaviour,
// with the commands typed and what must be printed. A bug that was fixed leaves a script behind.
package script

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	program := os.Getenv("NODELESS_PROGRAM")
	if program == "" {
		program = "../../dist/bundle/bin/nodeless"
	}
	program, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skipf("skipped: the program is not built, run `make build`: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, "bin")
			if err := os.MkdirAll(bin, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"nodeless", "kubectl", "crictl", "ctr"} {
				if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
					return err
				}
			}
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			// Nothing of this machine's own installation may show through.
			env.Setenv("NODELESS_DATA_DIR", filepath.Join(env.WorkDir, "data"))
			env.Setenv("NODELESS_RUN_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("NODELESS_WRITE_KUBECONFIG", filepath.Join(env.WorkDir, "kubeconfig"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			return cond == "root" && os.Geteuid() == 0, nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}
