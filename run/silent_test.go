package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/tender"
)

// occupied makes a runtime folder that a tender owns, and has each who comes to its socket
// heard. free, which that is given as well, gives the folder up as who ends in order does.
func occupied(t *testing.T, dir string, hear func(c net.Conn, free func())) (free func()) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	free = sync.OnceFunc(func() {
		ln.Close() // removes its name
		lock.Close()
	})
	t.Cleanup(free)
	go func() {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			hear(c, free)
			c.Close()
		}
	}()
	return free
}

// deaf answers nobody, as where all seats of a tender are taken.
func deaf(net.Conn, func()) {}

// Who is silent keeps no other instance of its workload from its end, neither by 'down' nor
// at the end of 'up'; both tell of it.
func TestASilentTenderKeepsNoOtherFromItsEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *Machine) error{
		"down": func(t *testing.T, m *Machine) error {
			owner, err := m.Owner("shop-01") // which is silent
			if err != nil {
				t.Fatal(err)
			}
			return m.Down(t.Context(), owner)
		},
		"up": func(_ *testing.T, m *Machine) error {
			var said strings.Builder
			u := &up{Machine: m, pause: map[string]time.Duration{"acme/shop": 0}, sink: func(e Event) { said.WriteString(e.Kind + " " + e.Text) }}
			if err := u.end(); !errors.Is(err, ErrLeft) || !strings.HasPrefix(said.String(), EventFailed) {
				return nil
			}
			return errors.New(said.String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &Machine{paths: Paths{Runtime: t.TempDir(), Data: t.TempDir()}}
			silent, serves := filepath.Join(m.paths.Runtime, "acme.shop.01"), filepath.Join(m.paths.Runtime, "acme.shop.02")
			occupied(t, silent, deaf)
			occupied(t, serves, func(c net.Conn, free func()) {
				line, _ := bufio.NewReader(c).ReadString('\n')
				s, err := json.Marshal(tender.Status{Instance: "shop-02", Tenant: "acme", Workload: "shop", State: tender.Ready})
				if err != nil {
					t.Error(err)
				}
				if _, err := c.Write([]byte(`{"last":true,"result":` + string(s) + "}\n")); err == nil && strings.Contains(line, `"drain"`) {
					free()
				}
			})
			if err := end(t, m); err == nil || !strings.Contains(err.Error(), silent) || strings.Contains(err.Error(), serves) {
				t.Errorf("it says %v", err)
			}
			if _, err := os.Stat(serves); err == nil {
				t.Error("the other one has not ended")
			}
			if _, err := os.Stat(silent); err != nil {
				t.Errorf("the silent one has lost its folder: %v", err)
			}
		})
	}
}

// What 'down' is to end is found by its name alone.
func TestOwnersOfNames(t *testing.T) {
	m := &Machine{paths: Paths{Runtime: t.TempDir()}}
	if _, err := m.Owner(""); err == nil || err.Error() != "nothing runs" {
		t.Errorf("of none: %v", err)
	}
	free := occupied(t, filepath.Join(m.paths.Runtime, "acme.shop.01"), deaf)
	occupied(t, filepath.Join(m.paths.Runtime, "acme.shop.02"), deaf)
	for _, name := range []string{"", "shop", "acme/shop", "shop-01", "shop-02"} {
		if owner, err := m.Owner(name); owner != "acme/shop" || err != nil {
			t.Errorf("%q is of %q: %v", name, owner, err)
		}
	}
	occupied(t, filepath.Join(m.paths.Runtime, "acme.site.03"), deaf)
	free()
	for name, want := range map[string]string{"": "several workloads run", "shop-01": ErrNone.Error(), "shopping": ErrNone.Error(), "other/shop": ErrNone.Error()} {
		if owner, err := m.Owner(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is of %q: %v; want %q", name, owner, err, want)
		}
	}
	if owner, err := m.Owner("site"); owner != "acme/site" || err != nil {
		t.Errorf("site is of %q: %v", owner, err)
	}
	if _, err := m.Find(context.Background(), "shop-01"); !errors.Is(err, ErrNone) {
		t.Errorf("find: %v", err)
	}
}
