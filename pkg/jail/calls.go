package jail

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Calls are the system calls that a program may make. Every other one fails with EPERM. One by the numbers of another architecture ends
// the process.
type Calls struct {
	Allow  []uint32 // whatever their arguments
	Only   []Only   // with some arguments
	Absent []uint32 // fail with ENOSYS, as on a kernel that does not know them: the program knows another way then
}

// Only allows a call where the lower half of one of its arguments is as said: one of Values; or, without them, nothing but bits of Bits,
// and all of Must.
type Only struct {
	Call   uint32
	Arg    uint32 // from 0 on
	Values []uint32
	Bits   uint32
	Must   uint32
}

// Threads allows to make threads, as the C library makes them, and no processes. SYS_CLONE3 has to be absent: what it is asked for is in
// memory, where no filter looks.
var Threads = Only{
	Call: unix.SYS_CLONE,
	Bits: unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM |
		unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID | unix.CLONE_DETACHED,
	Must: unix.CLONE_VM | unix.CLONE_THREAD,
}

// Where the kernel puts what a filter looks at: struct seccomp_data.
const (
	numberAt  = 0
	archAt    = 4
	argsAt    = 16
	argLength = 8
)

// firstForeign is the first number of the x32 calls, which are of the same architecture to a filter.
const firstForeign = 0x40000000

// compile writes the filter as the kernel takes it.
func (c Calls) compile() ([]unix.SockFilter, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("make a filter of system calls: not for %s yet", runtime.GOARCH)
	}
	kill := bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AUDIT_ARCH_X86_64, SkipTrue: 1},
		kill,
		bpf.LoadAbsolute{Off: numberAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: firstForeign, SkipTrue: 1},
		kill,
	}
	for _, call := range c.Allow {
		prog = append(prog, onCall(call, ret(unix.SECCOMP_RET_ALLOW))...)
	}
	for _, only := range c.Only {
		prog = append(prog, onCall(only.Call, only.judge()...)...)
	}
	for _, call := range c.Absent {
		prog = append(prog, onCall(call, ret(unix.SECCOMP_RET_ERRNO, unix.ENOSYS))...)
	}
	raw, err := bpf.Assemble(append(prog, ret(unix.SECCOMP_RET_ERRNO, unix.EPERM)))
	if err != nil {
		return nil, fmt.Errorf("make a filter of system calls: %w", err)
	}
	var filter []unix.SockFilter
	for _, r := range raw {
		filter = append(filter, unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K})
	}
	return filter, nil
}

// ret ends the filter with an action, and an error that goes with it.
func ret(action uint32, errno ...unix.Errno) bpf.Instruction {
	for _, e := range errno {
		action |= uint32(e)
	}
	return bpf.RetConstant{Val: action}
}

// onCall runs then, which ends the filter, for one call. The number is in the register before and after.
func onCall(call uint32, then ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: uint8(len(then))}}, then...)
}

// judge allows the call if its argument is as it has to be.
func (o Only) judge() []bpf.Instruction {
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: argsAt + argLength*o.Arg, Size: 4}}
	for _, v := range o.Values {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: 1}, ret(unix.SECCOMP_RET_ALLOW))
	}
	if len(o.Values) == 0 {
		faults := []bpf.JumpIf{{Cond: bpf.JumpBitsSet, Val: ^o.Bits}}
		for bit := uint32(1); bit != 0; bit <<= 1 {
			if o.Must&bit != 0 {
				faults = append(faults, bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: bit})
			}
		}
		for i, fault := range faults {
			fault.SkipTrue = uint8(len(faults) - i) // past the others, and past what allows it
			prog = append(prog, fault)
		}
		prog = append(prog, ret(unix.SECCOMP_RET_ALLOW))
	}
	return append(prog, ret(unix.SECCOMP_RET_ERRNO, unix.EPERM))
}

// install has the kernel go by the filter from now on, for the calling thread and what it becomes. Other threads of the second stage end
// with exec; they need no filter, and one that is made for the program might end them before.
func install(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}
