package containerd

import (
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/worker/containerd/pull"
)

var update = flag.Bool("update", false, "write the golden files")

func exampleConfig() Config {
	return Config{
		Program: "/b/bin/nodeless", CNIDir: "/b/cni", AuxDir: "/b/aux", BundleImages: "/b/images",
		Kata:      Kata{Shim: "/b/bin/containerd-shim-kata-v2", VMM: "/b/bin/nodeless-vmm", Virtiofsd: "/b/bin/virtiofsd", Kernel: "/b/guest/vmlinux", Initrd: "/b/guest/initrd"},
		Converter: "/b/bin/nodeless-converter", Memory: Memory{Converters: 1 << 30, ConvertersCgroup: "/nodeless/converters"},
		Root: "/d/agent/containerd", State: "/r/containerd/state", Socket: "/r/containerd/containerd.sock", ConfigFile: "/r/containerd.toml", KataFile: "/r/kata.toml",
		VMMConfig: "/r/vmm.json", CNIConf: "/r/cni/net.d", Images: "/d/agent/images", Certs: "/d/agent/certs.d", Registries: "/e/registries.yaml", Pull: pull.DefaultLimits(),
		Denied: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("10.0.0.0/8")}, Cluster: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
	}
}

func TestSettings(t *testing.T) {
	plain := exampleConfig()
	bench := exampleConfig()
	bench.Runc, bench.Restricted, bench.Debug = Runc{Binary: "/usr/sbin/runc", Shim: "/usr/bin/containerd-shim-runc-v2"}, true, true
	for name, tt := range map[string]struct {
		render func(Config) ([]byte, error)
		cfg    Config
	}{
		"containerd.toml":           {ContainerdTOML, plain},
		"containerd-with-runc.toml": {ContainerdTOML, bench},
		"kata.toml":                 {KataTOML, plain},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.render(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			var parsed map[string]any
			if err := toml.Unmarshal(got, &parsed); err != nil {
				t.Fatalf("not TOML: %v", err)
			}
			golden := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		})
	}
}

func TestPathsAreQuoted(t *testing.T) {
	cfg := exampleConfig()
	cfg.Root = `/d "quoted" \back & <more>`
	text, err := ContainerdTOML(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct{ Root string }
	if err := toml.Unmarshal(text, &parsed); err != nil || parsed.Root != cfg.Root {
		t.Errorf("root = %q, %v; want %q", parsed.Root, err, cfg.Root)
	}
}

// TestRecordedAnnotationsReachTheMicroVM holds the names in the template and those in pkg/api together.
func TestRecordedAnnotationsReachTheMicroVM(t *testing.T) {
	text, err := ContainerdTOML(exampleConfig())
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Plugins map[string]struct {
			Containerd struct {
				Runtimes map[string]struct {
					PodAnnotations []string `toml:"pod_annotations"`
				}
			}
		}
	}
	if err := toml.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	patterns := parsed.Plugins["io.containerd.cri.v1.runtime"].Containerd.Runtimes[Handler].PodAnnotations
	for _, key := range []string{api.Spec, api.SpecType, api.ChargeType, api.Workload, api.ResourceTag} {
		handed := slices.ContainsFunc(patterns, func(pattern string) bool {
			ok, err := path.Match(pattern, key) // as containerd does
			return ok && err == nil
		})
		if !handed {
			t.Errorf("%s is not among %q", key, patterns)
		}
	}
}

// TestOneCPUGivesOneVCPU holds what default_vcpus relies on: Kata adds the Pod's limit to it in single precision
// and rounds up.
func TestOneCPUGivesOneVCPU(t *testing.T) {
	text, err := KataTOML(exampleConfig())
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Hypervisor map[string]struct {
			VCPUs float32 `toml:"default_vcpus"`
		}
	}
	if err := toml.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	base := parsed.Hypervisor["clh"].VCPUs
	for limit, want := range map[float32]int{0: 1, 0.05: 1, 0.5: 1, 1: 1, 1.5: 2, 2: 2, 4: 4, 64: 64} {
		sum := base + limit
		got := int(sum)
		if sum > float32(got) {
			got++
		}
		if sum <= 0 || got != want {
			t.Errorf("a limit of %g CPUs gives %d vCPUs, want %d", limit, got, want)
		}
	}
}

func TestValidateNamesEachFault(t *testing.T) {
	if err := exampleConfig().Validate(); err != nil {
		t.Errorf("Validate = %v", err)
	}
	cfg := exampleConfig()
	cfg.Program, cfg.Socket, cfg.Runc.Binary = "", "/"+strings.Repeat("x", 120), "runc"
	err := cfg.Validate()
	for _, want := range []string{"program", "socket path", "runc"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, lacks %q", err, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"HOME=/h", "PATH=/bin", "NOTIFY_SOCKET=/n", "CONTAINERD_ADDRESS=/x", contract.ConfigEnv + "=/old"}, exampleConfig())
	want := []string{"HOME=/h", "PATH=/b/aux:/bin", contract.ConfigEnv + "=/r/vmm.json"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestLogLines(t *testing.T) {
	var out strings.Builder
	l := &logLines{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))}
	for _, part := range []string{
		`{"level":"info","msg":"detail","time":"t"}` + "\n" + `{"level":"error","ms`, `g":"no disk","time":"t","pod":"a","error":"full"}` + "\n\n",
		`time="t" level=warning msg="no /dev/x"` + "\n" + `time="t" level=error msg="lost" sandbox=s` + "\n",
		"panic: at the disco\n" + strings.Repeat("x", longestLine+5), strings.Repeat("y", 2*longestLine), "the end of it\nanother\n",
	} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	want := []string{
		`level=WARN msg="containerd says" text="no disk" error=full pod=a`,
		`level=WARN msg="shim says" text="msg=\"lost\" sandbox=s"`,
		`level=WARN msg="containerd wrote" line="panic: at the disco"`,
		`level=WARN msg="containerd wrote" line=` + strings.Repeat("x", longestLine), // and nothing more of a line that is too long
		`level=WARN msg="containerd wrote" line=another`,
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out.String()), "\n")); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestHasSysResource(t *testing.T) {
	for text, want := range map[string]bool{
		"Name:\tx\nCapEff:\t000001ffffffffff\n": true, "CapEff:\t000001fffeffffff\n": false, "": false,
	} {
		file := filepath.Join(t.TempDir(), "status")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hasSysResource(file); got != want {
			t.Errorf("hasSysResource(%q) = %v, want %v", text, got, want)
		}
	}
}
