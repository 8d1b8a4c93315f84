// Command sign makes the key of a release and signs with it. scripts/release.sh calls it; install.sh checks what it made, with OpenSSL.
//
//	sign new KEYFILE            makes a key and prints its public half
//	sign public KEYFILE         prints the public half
//	sign sign KEYFILE FILE      writes FILE.sig
//	sign verify PUBLIC FILE     ends with 1 unless FILE.sig is a signature of FILE
//
// A key is an ed25519 key as PKCS #8 in PEM, as `openssl genpkey -algorithm ed25519` makes it too. Its public half is one line, its 32
// bytes in base64. A signature is its 64 bytes in base64.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sign:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: sign new|public KEYFILE, sign sign KEYFILE FILE, sign verify PUBLIC FILE")

func run(args []string, out io.Writer) error {
	if len(args) < 2 || len(args) != arguments(args[0]) {
		return errUsage
	}
	switch args[0] {
	case "new":
		if err := newKey(args[1]); err != nil {
			return err
		}
		return printPublic(args[1], out)
	case "public":
		return printPublic(args[1], out)
	case "sign":
		return signFile(args[1], args[2])
	default:
		return verifyFile(args[1], args[2])
	}
}

// arguments is how many a command has, itself included.
func arguments(name string) int {
	switch name {
	case "new", "public":
		return 2
	case "sign", "verify":
		return 3
	}
	return 0
}

func printPublic(keyFile string, out io.Writer) error {
	key, err := readKey(keyFile)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, public(key))
	return err
}

func signFile(keyFile, file string) error {
	key, err := readKey(keyFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read what to sign: %w", err)
	}
	return atomicfile.Write(file+".sig", []byte(signature(key, text)+"\n"), 0o644)
}

func verifyFile(publicKey, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read what was signed: %w", err)
	}
	sig, err := os.ReadFile(file + ".sig")
	if err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	if err := verify(publicKey, text, string(sig)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
