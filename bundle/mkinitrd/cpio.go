package main

import (
	"bytes"
	"fmt"
)

// Types of a cpio entry, as in stat(2).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
)

// archive is a cpio archive in the "newc" form that the kernel unpacks. Times and owners are zero, so the same
// content gives the same bytes.
type archive struct {
	buf   bytes.Buffer
	inode uint32
}

func (a *archive) dir(name string) { a.entry(name, typeDir|0o755, 0, 0, nil) }

func (a *archive) device(name string, major, minor uint32) {
	a.entry(name, typeChar|0o600, major, minor, nil)
}

func (a *archive) file(name string, content []byte, perm uint32) {
	a.entry(name, typeFile|perm, 0, 0, content)
}

// bytes closes the archive. The length becomes a multiple of 512, as boot loaders expect.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	a.pad(512)
	return a.buf.Bytes()
}

func (a *archive) entry(name string, mode, major, minor uint32, content []byte) {
	a.inode++
	links := 1
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.pad(4)
	a.buf.Write(content)
	a.pad(4)
}

func (a *archive) pad(to int) {
	for a.buf.Len()%to != 0 {
		a.buf.WriteByte(0)
	}
}
