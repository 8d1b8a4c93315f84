package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/nodeless/nodeless/pkg/guest/container"
)

// copying makes a stream of messages: each with its length in two bytes before it.
func copying(f *testing.F, requests ...*pb.CopyFileRequest) []byte {
	f.Helper()
	var out []byte
	for _, r := range requests {
		raw, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		out = append(append(out, byte(len(raw)), byte(len(raw)>>8)), raw...)
	}
	return out
}

// paths lists all that is below a directory, with type, permissions and, of files, content.
func paths(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := path + " " + info.Mode().String()
		if d.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(raw)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, "\n")
}

// FuzzCopyFile writes files where a container has laid links to everywhere: what is outside stays as it is.
func FuzzCopyFile(f *testing.F) {
	regular := func(path string, data string) *pb.CopyFileRequest {
		return &pb.CopyFileRequest{Path: path, FileMode: unix.S_IFREG | 0o4755, FileSize: int64(len(data)), Data: []byte(data)}
	}
	link := func(path, target string) *pb.CopyFileRequest {
		return &pb.CopyFileRequest{Path: path, FileMode: unix.S_IFLNK, Data: []byte(target)}
	}
	dir := func(path string) *pb.CopyFileRequest {
		return &pb.CopyFileRequest{Path: path, FileMode: unix.S_IFDIR | 0o700, DirMode: 0o711}
	}
	f.Add(copying(f, regular("a/b", "x"), dir("a"), link("l", "a"), regular("l/c", "y")))
	f.Add(copying(f, link("up", "../outside"), regular("up/file", "x"), dir("up"), regular("up", "x")))
	f.Add(copying(f, regular("abs/file", "x"), dir("abs"), regular("file", "x"), link("abs", "x")))
	f.Add(copying(f, link("x"+partSuffix, "../outside/secret"), regular("x", "x"), dir("x"+partSuffix), regular("x", "y"), link("x", "y")))
	f.Add(copying(f, regular("../outside/secret", "x"), regular("..", "x"), regular(".", "x"), regular("", "x"), regular("a/../../outside/s", "x")))
	f.Add(copying(f, &pb.CopyFileRequest{Path: "s", Offset: -1, FileSize: -1}, &pb.CopyFileRequest{Path: "s", Offset: 100, FileSize: 101, Data: []byte("x")},
		&pb.CopyFileRequest{Path: "s", Offset: 1 << 62, FileSize: 1<<63 - 1, Data: []byte("x"), Uid: -1, Gid: 70000}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		top := t.TempDir()
		root, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
		for _, d := range []string{root, outside} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, target := range map[string]string{"abs": outside, "rel": "../outside", "file": outside + "/secret", "file" + partSuffix: outside + "/secret", "new": outside + "/new"} {
			if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
		before := paths(t, outside)
		for len(stream) >= 2 {
			size := min(int(stream[0])|int(stream[1])<<8, len(stream)-2)
			var req pb.CopyFileRequest
			if proto.Unmarshal(stream[2:2+size], &req) == nil && len(req.GetData()) < 1<<16 && req.GetOffset() < 1<<20 {
				// As CopyFile has it: cleaned, and below the root.
				if name, ok := strings.CutPrefix(filepath.Clean("/base/"+req.GetPath()), "/base/"); ok {
					_ = copyBelow(root, name, &req)
				}
			}
			stream = stream[2+size:]
		}
		if after := paths(t, outside); after != before {
			t.Errorf("outside of the root was\n%s\nand is\n%s", before, after)
		}
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 2 {
			t.Errorf("beside the root: %v, %v", entries, err)
		}
	})
}

// FuzzRequest is what a container asks of the guest: its storages, devices and mounts, converted and not carried out.
func FuzzRequest(f *testing.F) {
	for _, req := range []*pb.CreateContainerRequest{
		{
			ContainerId: "x",
			Storages: []*pb.Storage{{Driver: "blk", Source: "0a/00", Fstype: "erofs", MountPoint: "/run/kata-containers/l", FsGroup: &pb.FSGroup{GroupId: 7, GroupChangePolicy: 1}},
				{Driver: "local", MountPoint: "/a/../..", Options: []string{"mode=0777,fsgid=5"}}, nil},
			Devices: []*pb.Device{{Type: "blk", ContainerPath: "/dev/sda", Id: "0a"}, {Type: "vfio-pci-gk", Options: []string{"0000:01:00.0=0a/00", "x"}}},
			OCI: &pb.Spec{Annotations: map[string]string{pauseMarks[0]: "sandbox"}, Mounts: []*pb.Mount{{Source: "/a", Type: "local"}, {Source: "/a/b", Type: "bind"}, nil},
				Linux: &pb.Linux{Devices: []*pb.LinuxDevice{{Path: "/dev/null", Type: "c"}, {Path: "/dev/sda", Type: "b", Major: 8}, {Path: "/proc/self/mem", Type: "u"}, nil}}},
		},
		{},
	} {
		raw, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req pb.CreateContainerRequest
		if proto.Unmarshal(raw, &req) != nil {
			return
		}
		spec := container.SpecFromProto(req.GetOCI())
		_ = isPause(spec)
		sources := map[string]string{}
		for _, s := range req.GetStorages() {
			st := storage(s)
			if st.MountPoint != filepath.Clean(st.MountPoint) {
				t.Errorf("mount point %q is not clean", st.MountPoint)
			}
			sources[st.MountPoint] = "/moved"
		}
		redirectMounts(spec.Mounts, sources)
		for _, m := range spec.Mounts {
			if m.Type == "local" {
				t.Errorf("mount of type %q, which no kernel knows", m.Type)
			}
		}
		numbers := func(path string) (string, int64, int64) {
			if strings.HasPrefix(path, "/dev/") {
				return "c", 42, 43
			}
			return "", 0, 0
		}
		separate := map[string]bool{}
		for _, d := range req.GetDevices() {
			separate[d.GetContainerPath()] = true
		}
		for _, d := range guestDevices(spec.Linux.Devices, req.GetDevices(), numbers) {
			if !separate[d.Path] && d.Type != "p" && (d.Major != 42 || d.Minor != 43) {
				t.Errorf("device %+v has a number that is not the guest's", d)
			}
		}
	})
}
