package redteam

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender"
)

// direct gives the attacker a network of its own.
func direct(c *tender.Config) { c.Net = api.NetDirect }

// alone starts a tender where it sees no network device, so that its own stack is what
// is attacked; "" where that takes more than this user may do.
func alone(t *testing.T) []string {
	t.Helper()
	_, err := os.Stat("/dev/net/tun")
	switch {
	case err != nil:
		return []string{"/proc/self/exe", "tender"}
	case os.Geteuid() != 0:
		notrun.Say(t, "attacks on a tender's own stack", "hiding /dev/net/tun needs root")
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs none /dev/net; exec "$0" tender`, self}
}

// An image that lets go of its network, or says that it has ended, is of no more use.
func TestImagesThatLeaveTheirNetworkEnd(t *testing.T) {
	exe := alone(t)
	if exe == nil {
		return
	}
	for _, name := range []string{"leave the network", "an empty frame"} {
		c, _, err := launchAs(t, exe, name, direct)
		reason := ""
		if err != nil {
			reason = err.Error()
		} else {
			reason = died(t, c)
		}
		if !strings.Contains(reason, "its network: EOF") {
			t.Errorf("%s: it ended otherwise: %s", name, reason)
		}
	}
}

// Whatever an image sends, its tender goes on with bounded memory, and those whom nobody
// answers cost it no more.
func TestFramesAreBounded(t *testing.T) {
	exe := alone(t)
	if exe == nil {
		return
	}
	for _, name := range []string{"a flood of frames", "descriptors in frames"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _, err := launchAs(t, exe, name, direct)
			if err != nil {
				t.Fatal(err)
			}
			s := status(t, c)
			if s.Way != tender.WayOwnStack {
				t.Fatalf("packets come %s", s.Way)
			}
			for range 64 {
				conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Listen[0].Port))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			time.Sleep(2 * time.Second)
			if s := status(t, c); s.State != tender.Ready || s.Restarts != 0 {
				t.Errorf("status is %+v", s)
			}
			kib, err := residentOf(s.TenderPID)
			if err != nil || kib > maxResident {
				t.Errorf("the tender has grown to %d KiB (%v)", kib, err)
			}
			files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.TenderPID))
			if err != nil || len(files) > 160 {
				t.Errorf("the tender holds %d descriptors (%v)", len(files), err)
			}
			t.Logf("%d KiB, %d descriptors", kib, len(files))
		})
	}
}
