package process

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// leaveFileSystem replaces the root by a read-only file system with nothing but
// keep, absolute paths, and detaches the old one. It must run in a mount
// namespace of its own.
func leaveFileSystem(keep ...string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("stage: making mounts private: %w", err)
	}
	kept, err := takeAlong(keep)
	if err != nil {
		return err
	}
	const place = "/proc" // any folder would do; this one exists
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// A folder or a link for each part of each path.
	size := fmt.Sprintf("size=64k,nr_inodes=%d,mode=0555", 1+strings.Count(strings.Join(keep, ""), "/"))
	if err := unix.Mount("tmpfs", place, "tmpfs", flags, size); err != nil {
		return fmt.Errorf("stage: mounting an empty root: %w", err)
	}
	if err := unix.Chdir(place); err != nil {
		return fmt.Errorf("stage: chdir: %w", err)
	}
	for _, k := range kept {
		if err := k.attach("."); err != nil {
			return fmt.Errorf("stage: keeping %s: %w", k.path, err)
		}
	}
	if err := unix.Mount("", place, "", flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("stage: making the root read-only: %w", err)
	}
	// pivot_root(2): with both arguments the same, the old root ends up on top.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("stage: pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("stage: detaching the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("stage: chdir: %w", err)
	}
	return nil
}

// dropPrivileges leaves the thread without capabilities, without a way to gain
// any, and, where it was root, without that identity.
func (o *order) dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("stage: PR_SET_NO_NEW_PRIVS: %w", err)
	}
	var caps [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return fmt.Errorf("stage: capget: %w", err)
	}
	if caps[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		if err := dropBounding(); err != nil {
			return err
		}
	}
	if o.DropUser {
		groups := make([]uint32, 0, len(o.Groups))
		for _, g := range o.Groups {
			groups = append(groups, uint32(g))
		}
		// Not through package syscall, which would change all threads.
		for _, c := range []struct {
			name    string
			number  uintptr
			a, b, d uintptr
		}{
			{"setgroups", unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0},
			{"setresgid", unix.SYS_SETRESGID, unprivileged, unprivileged, unprivileged},
			{"setresuid", unix.SYS_SETRESUID, unprivileged, unprivileged, unprivileged},
		} {
			if _, _, e := unix.RawSyscall(c.number, c.a, c.b, c.d); e != 0 {
				return fmt.Errorf("stage: %s: %w", c.name, e)
			}
		}
	}
	caps = [2]unix.CapUserData{}
	if err := unix.Capset(&head, &caps[0]); err != nil {
		return fmt.Errorf("stage: capset: %w", err)
	}
	return nil
}

// dropBounding empties the ambient and the bounding set and turns off what root
// means to exec.
func dropBounding() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("stage: ambient capabilities: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > unix.CAP_AUDIT_READ { // beyond the kernel's last
			break
		}
		if err != nil {
			return fmt.Errorf("stage: dropping capability %d: %w", c, err)
		}
	}
	const securebits = 0xef // NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE, each locked
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return fmt.Errorf("stage: securebits: %w", err)
	}
	return nil
}

// Landlock rights by ABI (Linux, Documentation/userspace-api/landlock.rst).
const (
	landlockFS1 = 1<<13 - 1 // EXECUTE to MAKE_SYM
	landlockNet = 3         // BIND_TCP, CONNECT_TCP
	landlockAll = 3         // scopes: abstract sockets, signals
)

// ruleset is struct landlock_ruleset_attr; a kernel that knows less of it
// accepts the rest as zero.
type ruleset struct{ fs, net, scoped uint64 }

func landlockRules(abi int) ruleset {
	r := ruleset{fs: landlockFS1}
	if abi >= 2 {
		r.fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		r.fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		r.net = landlockNet
	}
	if abi >= 5 {
		r.fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		r.scoped = landlockAll
	}
	return r
}

// A right is an exception of a Landlock domain: what may be done beneath path.
type right struct {
	path   string
	access uint64
}

// restrict enforces a Landlock domain that allows nothing but rights. An image
// needs none: it lies in anonymous memory, which no path reaches.
func restrict(abi int, rights ...right) error {
	if abi == 0 {
		return nil
	}
	r := landlockRules(abi)
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r), 0)
	if e != 0 {
		return fmt.Errorf("stage: landlock_create_ruleset (ABI %d): %w", abi, e)
	}
	defer unix.Close(int(fd))
	for _, x := range rights {
		if err := x.add(int(fd), r.fs); err != nil {
			return fmt.Errorf("stage: landlock_add_rule: %s: %w", x.path, err)
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); e != 0 {
		return fmt.Errorf("stage: landlock_restrict_self: %w", e)
	}
	return nil
}

// add adds what of r the kernel knows of to a ruleset.
func (r right) add(rules int, handled uint64) error {
	fd, err := unix.Open(r.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct landlock_path_beneath_attr, which is packed.
	var attr [12]byte
	binary.NativeEndian.PutUint64(attr[:], r.access&handled)
	binary.NativeEndian.PutUint32(attr[8:], uint32(fd))
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// landlockABI returns the kernel's Landlock version; 0 where it has none or has
// it turned off.
func landlockABI() (int, error) {
	v, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0, e
	}
	return int(v), nil
}
