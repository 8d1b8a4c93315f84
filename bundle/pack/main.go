// Command pack makes the file that ships: the launcher with the bundle tree behind it.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/nodeless/nodeless/pkg/bundle"
)

func main() {
	tree := flag.String("tree", "dist/bundle", "the bundle tree, bundle.json included")
	launcher := flag.String("launcher", "", "the program in front")
	out := flag.String("out", "dist/nodeless", "the file that ships")
	flag.Parse()
	if err := pack(*tree, *launcher, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// pack skips the work, half a minute, when out holds this launcher and this bundle already.
func pack(tree, launcher, out string) error {
	front, err := os.ReadFile(launcher)
	if err != nil {
		return fmt.Errorf("read launcher: %w", err)
	}
	raw, err := os.ReadFile(tree + "/" + bundle.ManifestName)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if upToDate(out, front, bundle.Hash(raw)) {
		fmt.Printf("%s is up to date\n", out)
		return nil
	}
	tmp := out + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = w.Write(front)
	var t bundle.Trailer
	if err == nil {
		t, err = bundle.Pack(tree, w, int64(len(front)))
	}
	if err = errors.Join(err, w.Flush(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, out); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	fmt.Printf("%s: %.1f MB, bundle %s\n", out, float64(t.Offset+t.Length)/1e6, t.Hash)
	return nil
}

func upToDate(out string, front []byte, hash string) bool {
	f, err := os.Open(out)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false
	}
	t, err := bundle.ReadTrailer(f, info.Size())
	if err != nil || t.Hash != hash || t.Offset != int64(len(front)) {
		return false
	}
	have := make([]byte, len(front))
	_, err = f.ReadAt(have, 0)
	return err == nil && string(have) == string(front)
}
