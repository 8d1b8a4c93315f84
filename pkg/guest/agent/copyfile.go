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
)

// partSuffix marks a file that has not arrived completely.
const partSuffix = ".nodeless-part"

// CopyFile writes a file, directory or symbolic link below Root. Large files come in several messages;
// a file and a link replace what was there in one step, so that a container never sees half of one.
func (a *Agent) CopyFile(_ context.Context, req *pb.CopyFileRequest) (*emptypb.Empty, error) {
	path := filepath.Clean(req.GetPath())
	if !strings.HasPrefix(path, Root+"/") {
		return nil, status.Errorf(codes.InvalidArgument, "copy to %s: not below %s", path, Root)
	}
	dirMode := fs.FileMode(req.GetDirMode() & 0o777)
	if dirMode == 0 {
		dirMode = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, fmt.Errorf("copy to %s: %w", path, err)
	}
	var err error
	switch req.GetFileMode() & unix.S_IFMT {
	case unix.S_IFDIR:
		err = copyDirectory(path, req)
	case unix.S_IFLNK:
		err = copyLink(path, req)
	case unix.S_IFREG, 0:
		err = copyRegular(path, req)
	default:
		return nil, status.Errorf(codes.InvalidArgument, "copy to %s: unsupported file mode %o", path, req.GetFileMode())
	}
	if err != nil {
		return nil, fmt.Errorf("copy to %s: %w", path, err)
	}
	return &emptypb.Empty{}, nil
}

func copyDirectory(path string, req *pb.CopyFileRequest) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Lchown(path, int(req.GetUid()), int(req.GetGid())); err != nil {
		return err
	}
	return unix.Chmod(path, req.GetFileMode()&0o7777)
}

func copyLink(path string, req *pb.CopyFileRequest) error {
	part := path + partSuffix
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.Symlink(string(req.GetData()), part); err != nil {
		return err
	}
	if err := os.Lchown(part, int(req.GetUid()), int(req.GetGid())); err != nil {
		return err
	}
	return os.Rename(part, path)
}

func copyRegular(path string, req *pb.CopyFileRequest) error {
	part := path + partSuffix
	flags := os.O_WRONLY | os.O_CREATE | unix.O_NOFOLLOW
	if req.GetOffset() == 0 {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(part, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(req.GetData(), req.GetOffset())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if req.GetOffset()+int64(len(req.GetData())) < req.GetFileSize() {
		return nil // more to come
	}
	if err := os.Lchown(part, int(req.GetUid()), int(req.GetGid())); err != nil {
		return err
	}
	if err := unix.Chmod(part, req.GetFileMode()&0o7777); err != nil {
		return err
	}
	return os.Rename(part, path)
}
