package backup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	// sealedMagic begins a file that age has encrypted.
	sealedMagic = "age-encryption.org/"
	// work is the cost of trying one passphrase, as a power of two: 256 MiB and about a second. Archives that want more are refused.
	work = 18
	// minPassphrase keeps an archive from being opened by trying.
	minPassphrase = 12
	maxPassphrase = 1024
)

// Kinds of refusals about the passphrase.
var (
	ErrPassphrase = errors.New("the passphrase is not that of the archive, or its beginning was changed")
	ErrNotSealed  = errors.New("the archive is not encrypted, so anybody could have changed it")
	ErrSealed     = errors.New("the archive is encrypted")
)

// seal encrypts what is written with a passphrase. Nobody without it can read the archive, or change it such that it opens: age
// authenticates each part of it by a key that is made from the passphrase alone.
func seal(w io.Writer, passphrase string) (io.WriteCloser, error) {
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(work)
	return age.Encrypt(w, to)
}

// unseal gives what is in an archive, encrypted or not as the target expects it.
func (to Target) unseal(f io.Reader, file string) (io.Reader, error) {
	r := bufio.NewReader(f)
	begin, err := r.Peek(len(sealedMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(begin, []byte(sealedMagic)) {
		if to.Unencrypted {
			return r, nil
		}
		if !bytes.HasPrefix(begin, []byte{0x28, 0xb5, 0x2f, 0xfd}) { // zstd's
			return nil, corrupt(file, errors.New("it is neither encrypted nor compressed"))
		}
		return nil, &hint.Error{Op: "read backup", On: file, Err: ErrNotSealed, Do: "if you know that it is as it was written, give --unencrypted"}
	}
	if to.Passphrase == "" {
		return nil, &hint.Error{Op: "read backup", On: file, Err: ErrSealed, Do: "name the file with its passphrase with --passphrase-file"}
	}
	key, err := age.NewScryptIdentity(to.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("read backup %s: %w", file, err)
	}
	key.SetMaxWorkFactor(work)
	clear, err := age.Decrypt(r, key)
	if err != nil {
		return nil, &hint.Error{Op: "read backup", On: file, Err: fmt.Errorf("%w: %w", ErrPassphrase, err), Do: "name the file with the passphrase that `nodeless backup` was given; nothing on this host was changed"}
	}
	return clear, nil
}

// ReadPassphrase reads the first line of a file that only its owner can read, or of in when the name is -.
func ReadPassphrase(name string, in io.Reader) (string, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", &hint.Error{Op: "read passphrase", On: name, Err: err, Do: "name a file with a line of at least 12 characters, mode 0600"}
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return "", fmt.Errorf("read passphrase: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return "", &hint.Error{Op: "read passphrase", On: name, Err: errors.New("others can read or write it"), Do: "chmod 600 " + name}
		}
		in = f
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxPassphrase+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read passphrase %s: %w", name, err)
	}
	line = strings.TrimRight(line, "\r\n")
	if len(line) < minPassphrase || len(line) > maxPassphrase {
		return "", &hint.Error{Op: "read passphrase", On: name, Err: fmt.Errorf("it has %d characters; want %d to %d", len(line), minPassphrase, maxPassphrase), Do: "make one with `openssl rand -base64 24`"}
	}
	return line, nil
}
