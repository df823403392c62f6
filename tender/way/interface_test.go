package way

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
)

// A device that an administrator made is opened as it is, by one at a time, and none is
// made by who asks for it; what is in the way is said.
func TestAnInterfaceIsOpenedAndNotMade(t *testing.T) {
	thread := newThread()
	defer thread.close()
	ready := make(chan error)
	go thread.live(ready, func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err := <-ready; err != nil {
		notrun.Say(t, t.Name(), "no network namespace may be made: "+err.Error())
		return
	}
	thread.do(func() {
		out, err := exec.Command("sh", "-ec", `ip tuntap add dev tap7 mode tap; ip link set tap7 address 02:00:00:00:00:07 mtu 1400; ip tuntap add dev tun7 mode tun; ip link set tun7 up`).CombinedOutput()
		if err != nil {
			notrun.Say(t, t.Name(), strings.TrimSpace(string(out)))
			return
		}
		refused := func(name, want string) {
			t.Helper()
			if i, err := OpenInterface(name, true); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, %v", name, i, err)
			}
		}
		refused("tap8", "it is not there: sudo ip tuntap add dev tap8 mode tap")
		if _, err := net.InterfaceByName("tap8"); err == nil {
			t.Error("it was made")
		}
		refused("tap7", "it is down: sudo ip link set tap7 up")
		if out, err := exec.Command("ip", "link", "set", "tap7", "up").CombinedOutput(); err != nil {
			t.Errorf("%s: %v", out, err)
			return
		}
		refused("tun7", "it is no TAP device")
		i, err := OpenInterface("tap7", true)
		if err != nil {
			t.Error(err)
			return
		}
		refused("tap7", "another process has it")
		own, host := netip.MustParsePrefix("192.0.2.10/24"), netip.MustParseAddr("192.0.2.1")
		i.Address([]netip.Prefix{own, netip.MustParsePrefix("2001:db8::10/64")}, []netip.Addr{host}, true, false)
		l := i.Link()
		if !l.Shared || l.Verified || !l.DHCP || l.SLAAC || l.MTU != 1400 || l.Hosts[0] != host || l.Hosts[1].IsValid() {
			t.Errorf("the image is told %+v", l)
		}
		if l.MAC[0]&3 != 2 || l.MAC == [6]byte{2, 5: 7} || l.MAC == imageMAC {
			t.Errorf("its hardware address is %x", l.MAC)
		}
		// What an image's QEMU may do with its descriptor.
		if err := unix.IoctlSetInt(int(i.File().Fd()), unix.TUNSETPERSIST, 0); err != nil {
			t.Error(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		again, err := OpenInterface("tap7", true)
		if err != nil {
			t.Errorf("it did not stay: %v", err)
			return
		}
		if out, err := exec.Command("ip", "link", "del", "tap7").CombinedOutput(); err != nil {
			t.Errorf("%s: %v", out, err)
		}
		if err := again.Close(); err == nil || !strings.Contains(err.Error(), "whether interface tap7 stays") {
			t.Errorf("of one that is gone, closing says %v", err)
		}
		if got := again.Link().MAC; got != l.MAC {
			t.Errorf("the next image is %x, after %x", got, l.MAC)
		}

		if info, err := os.Stat(tunDevice); err != nil || info.Mode()&0o006 != 0o006 {
			notrun.Say(t, "a device of an ordinary user", "only root may open "+tunDevice+" here")
			return
		}
		const nobody = 65534 // of this thread alone, which ends with the test
		out, err = exec.Command("sh", "-ec", "ip tuntap add dev tap9 mode tap user 65534; ip link set tap9 up; ip tuntap add dev tap10 mode tap user 0; ip link set tap10 up").CombinedOutput()
		if err == nil {
			if _, _, failed := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0)); failed != 0 {
				err = failed
			}
		}
		if err != nil {
			notrun.Say(t, "a device of an ordinary user", strings.TrimSpace(string(out))+": "+err.Error())
			return
		}
		refused("tap10", "it is not this user's: sudo ip tuntap add dev NAME mode tap user ")
		theirs, err := OpenInterface("tap9", true)
		if err != nil {
			t.Errorf("who owns it has no need of root: %v", err)
			return
		}
		theirs.Close()
	})
}
