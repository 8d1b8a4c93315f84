package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/contract"
)

// partSuffix marks a file that has not arrived completely.
const partSuffix = ".nodeless-part"

// CopyFile writes a file, directory or symbolic link below contract.GuestRoot. Large files come in several messages;
// a file and a link replace what was there in one step, so that a container never sees half of one.
func (a *Agent) CopyFile(_ context.Context, req *pb.CopyFileRequest) (*emptypb.Empty, error) {
	path := filepath.Clean(req.GetPath())
	name, ok := strings.CutPrefix(path, contract.GuestRoot+"/")
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "copy to %s: not below %s", path, contract.GuestRoot)
	}
	switch req.GetFileMode() & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFLNK, unix.S_IFREG, 0:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "copy to %s: unsupported file mode %o", path, req.GetFileMode())
	}
	err := os.MkdirAll(contract.GuestRoot, 0o755)
	if err == nil {
		err = copyBelow(contract.GuestRoot, name, req)
	}
	if err != nil {
		return nil, fmt.Errorf("copy to %s: %w", path, err)
	}
	return &emptypb.Empty{}, nil
}

// copyBelow writes what the request says to dir. Containers may have made links in there: none leads out of dir.
func copyBelow(dir, name string, req *pb.CopyFileRequest) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	dirMode := fs.FileMode(req.GetDirMode() & 0o777)
	if dirMode == 0 {
		dirMode = 0o755
	}
	if err := root.MkdirAll(filepath.Dir(name), dirMode); err != nil {
		return err
	}
	switch req.GetFileMode() & unix.S_IFMT {
	case unix.S_IFDIR:
		return copyDirectory(root, name, req)
	case unix.S_IFLNK:
		return copyLink(root, name, req)
	}
	return copyRegular(root, name, req)
}

func copyDirectory(root *os.Root, name string, req *pb.CopyFileRequest) error {
	if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := root.Lchown(name, int(req.GetUid()), int(req.GetGid())); err != nil {
		return err
	}
	return root.Chmod(name, permissions(req))
}

func copyLink(root *os.Root, name string, req *pb.CopyFileRequest) error {
	part := name + partSuffix
	if err := root.RemoveAll(part); err != nil {
		return err
	}
	if err := root.Symlink(string(req.GetData()), part); err != nil {
		return err
	}
	if err := root.Lchown(part, int(req.GetUid()), int(req.GetGid())); err != nil {
		return err
	}
	return root.Rename(part, name)
}

func copyRegular(root *os.Root, name string, req *pb.CopyFileRequest) error {
	part := name + partSuffix
	flags := os.O_WRONLY | os.O_CREATE | unix.O_NOFOLLOW | unix.O_NONBLOCK // a pipe in its place must not hold us up
	if req.GetOffset() == 0 {
		flags |= os.O_TRUNC
	}
	f, err := root.OpenFile(part, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(req.GetData(), req.GetOffset())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if req.GetFileSize()-req.GetOffset() > int64(len(req.GetData())) {
		return nil // more to come
	}
	if err := root.Lchown(part, int(req.GetUid()), int(req.GetGid())); err != nil {
		return err
	}
	if err := root.Chmod(part, permissions(req)); err != nil {
		return err
	}
	return root.Rename(part, name)
}

// permissions are those of the request as Go has them.
func permissions(req *pb.CopyFileRequest) fs.FileMode {
	mode := fs.FileMode(req.GetFileMode() & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if req.GetFileMode()&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
