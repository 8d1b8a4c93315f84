package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pci tells of each PCI device its way on the buses, what it is, and its BARs in memory that have an address: number, size in
// MiB and address.
func pci() []string {
	var lines []string
	for _, dir := range glob("/sys/bus/pci/devices/*") {
		path, _ := filepath.EvalSymlinks(dir)
		line := way(path) + " " + ident(dir)
		for i, r := range resources(dir) {
			_, err := os.Stat(fmt.Sprintf("%s/resource%d", dir, i)) // there once the kernel has placed what it can
			if err == nil && r.flags&(flagMemory|flagUnset) == flagMemory {
				line += fmt.Sprintf(" %d:%dM@%#x", i, (r.to-r.from+1)>>20, r.from)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// ident is vendor and device, such as 1234:11e8.
func ident(dir string) string {
	return strings.TrimPrefix(read(dir+"/vendor"), "0x") + ":" + strings.TrimPrefix(read(dir+"/device"), "0x")
}

type resource struct{ from, to, flags uint64 }

// Flags of the kernel's include/linux/ioport.h.
const (
	flagMemory = 0x200
	flagUnset  = 0x20000000
)

func resources(dir string) []resource {
	var list []resource
	for line := range strings.Lines(read(dir + "/resource")) {
		var r resource
		_, _ = fmt.Sscanf(line, "0x%x 0x%x 0x%x", &r.from, &r.to, &r.flags)
		list = append(list, r)
	}
	return list
}

// useDevices works with the devices that it knows, QEMU's bochs-display, edu and ivshmem, and says how that went.
func useDevices() {
	for _, line := range pci() {
		fmt.Println("testguest: pci", line)
	}
	for _, dir := range glob("/sys/bus/pci/devices/*") {
		use, ok := map[string]func(string) error{"1234:1111": useDisplay, "1234:11e8": useEdu, "1af4:1110": useMemory}[ident(dir)]
		if !ok {
			continue
		}
		path, _ := filepath.EvalSymlinks(dir)
		name := way(path) + " " + ident(dir)
		if err := use(dir); err != nil {
			fmt.Println("testguest: device", name, "failed:", err)
			continue
		}
		fmt.Println("testguest: device", name, "works")
	}
	fmt.Println("testguest: devices done")
}

// window maps a BAR. The device may use memory of the guest from then on.
func window(dir string, bar int) ([]byte, error) {
	if err := os.WriteFile(dir+"/enable", []byte("1"), 0); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(fmt.Sprintf("%s/resource%d", dir, bar), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// Each of these is one access of a device; inlined, the compiler would answer a read by the write before it.

//go:noinline
func get16(b []byte, at int) uint16 { return *(*uint16)(unsafe.Pointer(&b[at])) }

//go:noinline
func get32(b []byte, at int) uint32 { return *(*uint32)(unsafe.Pointer(&b[at])) }

//go:noinline
func put32(b []byte, at int, v uint32) { *(*uint32)(unsafe.Pointer(&b[at])) = v }

//go:noinline
func put64(b []byte, at int, v uint64) { *(*uint64)(unsafe.Pointer(&b[at])) = v }

// useMemory fills a MiB of a device's memory at its begin and at its end, and reads it back.
func useMemory(dir string) error { return fillAndRead(dir, 2) }

func fillAndRead(dir string, bar int) error {
	memory, err := window(dir, bar)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory) //nolint:errcheck // it goes with the guest
	const part = 1 << 20
	begun := time.Now()
	for _, from := range []int{0, len(memory) - part} {
		for at := from; at < from+part; at += 4 {
			put32(memory, at, uint32(at)*2654435761)
		}
	}
	for _, from := range []int{0, len(memory) - part} {
		for at := from; at < from+part; at += 4 {
			if got := get32(memory, at); got != uint32(at)*2654435761 {
				return fmt.Errorf("its memory has %#x at %#x", got, at)
			}
		}
	}
	fmt.Println("testguest: memory of", len(memory)>>20, "MiB, 2 MiB written and read in", time.Since(begun).Round(100*time.Microsecond))
	return nil
}

// useDisplay works with the display's memory, and reads a register.
func useDisplay(dir string) error {
	if err := fillAndRead(dir, 0); err != nil {
		return err
	}
	registers, err := window(dir, 2)
	if err != nil {
		return err
	}
	defer unix.Munmap(registers)                     //nolint:errcheck // it goes with the guest
	if id := get16(registers, 0x500); id != 0xb0c5 { // docs/specs/standard-vga.rst of QEMU
		return fmt.Errorf("its version is %#x", id)
	}
	return nil
}

// Registers of edu, from docs/specs/edu.rst of QEMU.
const (
	eduID, eduLive, eduFactorial, eduStatus  = 0x00, 0x04, 0x08, 0x20
	eduFrom, eduTo, eduCount, eduCommand     = 0x80, 0x88, 0x90, 0x98
	eduBuffer, eduRun, eduToMemory, eduBytes = 0x40000, 1, 2, 64
)

// useEdu has the device compute, and copy bytes from the guest's memory to its own and from there to other memory of the guest.
func useEdu(dir string) error {
	r, err := window(dir, 0)
	if err != nil {
		return err
	}
	defer unix.Munmap(r) //nolint:errcheck // it goes with the guest
	if err := mayDMA(dir); err != nil {
		return err
	}
	if id := get32(r, eduID); id != 0x010000ed {
		return fmt.Errorf("its version is %#x", id)
	}
	put32(r, eduLive, 0x12345678)
	if got := get32(r, eduLive); got != ^uint32(0x12345678) {
		return fmt.Errorf("it answers %#x", got)
	}
	put32(r, eduFactorial, 10)
	if err := settled("the factorial", func() bool { return get32(r, eduStatus)&1 == 0 }); err != nil {
		return err
	}
	if got := get32(r, eduFactorial); got != 3628800 {
		return fmt.Errorf("10! is %d to it", got)
	}
	page, at, err := lockedPage()
	if err != nil {
		return err
	}
	defer unix.Munmap(page) //nolint:errcheck // it goes with the guest
	const behind = 2048
	want := bytes.Repeat([]byte("to the device, and back "), 3)[:eduBytes]
	copy(page, want)
	if err := eduCopy(r, at, eduBuffer, 0); err != nil {
		return err
	}
	if err := eduCopy(r, eduBuffer, at+behind, eduToMemory); err != nil {
		return err
	}
	if got := page[behind : behind+eduBytes]; !bytes.Equal(got, want) {
		return fmt.Errorf("%q came back from it", got)
	}
	fmt.Printf("testguest: edu copied %d bytes at %#x both ways\n", eduBytes, at)
	return nil
}

func eduCopy(r []byte, from, to uint64, way uint64) error {
	put64(r, eduFrom, from)
	put64(r, eduTo, to)
	put64(r, eduCount, eduBytes)
	put64(r, eduCommand, eduRun|way)
	return settled("a copy", func() bool { return get32(r, eduCommand)&eduRun == 0 })
}

func settled(what string, done func() bool) error {
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s has no end", what)
		}
	}
	return nil
}

// mayDMA lets the device use memory by itself: bit 2 of the command register.
func mayDMA(dir string) error {
	f, err := os.OpenFile(dir+"/config", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var command [2]byte
	const at, master = 4, 4
	if _, err := f.ReadAt(command[:], at); err != nil {
		return err
	}
	command[0] |= master
	_, err = f.WriteAt(command[:], at)
	return err
}

// lockedPage is a page of memory and its physical address.
func lockedPage() ([]byte, uint64, error) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, 0, err
	}
	page[0] = 1
	if err := unix.Mlock(page); err != nil {
		return nil, 0, err
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(uintptr(unsafe.Pointer(&page[0])))/4096*8); err != nil {
		return nil, 0, err
	}
	frame := binary.LittleEndian.Uint64(entry[:]) & (1<<55 - 1)
	if frame == 0 {
		return nil, 0, errors.New("the kernel does not tell where a page is")
	}
	return page, frame * 4096, nil
}
