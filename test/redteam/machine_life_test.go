package redteam

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender"
)

// What is no image of this workload on this target does not become ready, and the tender
// says why.
func TestWhatIsNoImageForAMachine(t *testing.T) {
	aMachine := machines(t)
	if aMachine == nil {
		return
	}
	b, err := os.ReadFile(machine.image.Path)
	if err != nil {
		t.Fatal(err)
	}
	altered := filepath.Join(t.TempDir(), "image")
	b[len(b)/2] ^= 1
	if err := os.WriteFile(altered, b, 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("00", 32)
	for name, c := range map[string]struct {
		change func(*tender.Config)
		want   string
	}{
		"one bit is another":         {func(c *tender.Config) { c.Image = altered }, "expected sha256:"},
		"one of another plan":        {func(c *tender.Config) { c.Plan = other }, "it was built for another plan"},
		"a program for another plan": {func(c *tender.Config) { c.Program = mustProgram(t, hostile.built) }, "plan"},
		"a program that is altered":  {func(c *tender.Config) { c.Program = append([]byte{1}, c.Program...) }, "signature"},
		"an image of a process": {func(c *tender.Config) { c.Image, c.ImageDigest = hostile.image.Path, hostile.image.Digest },
			"was built for another target"},
		"a machine as a process": {func(c *tender.Config) { c.Target, c.Syscalls = api.TargetProcess, hostile.image.Syscalls },
			"the image ended"},
		"no image": {func(c *tender.Config) {
			c.Image = "/etc/passwd"
			b, _ := os.ReadFile(c.Image)
			c.ImageDigest = fmt.Sprintf("sha256:%x", sha256.Sum256(b))
		}, "no ELF file"},
		"too little memory": {func(c *tender.Config) { c.Memory = 8 << 20 }, "memory"},
		"a device that nobody knows": {func(c *tender.Config) { c.Devices = append(c.Devices[:len(c.Devices):len(c.Devices)], "e1000") },
			`device "e1000"`},
		"no entropy": {func(c *tender.Config) { c.Devices = without(c.Devices, "virtio-rng") }, "entropy"},
		"no network": {func(c *tender.Config) { c.Devices = without(c.Devices, "virtio-net") }, "virtio-net"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := live(aMachine, c.change)
			if err == nil {
				t.Fatal(errors.Join(errors.New("it serves"), l.end()))
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v; want %q", err, c.want)
			}
		})
	}
}

func without(list []string, word string) (rest []string) {
	for _, w := range list {
		if w != word {
			rest = append(rest, w)
		}
	}
	return rest
}

func mustProgram(t *testing.T, b *built) []byte {
	t.Helper()
	p, err := b.programOf(1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What an image is told is on no command line, in no environment and in no file: neither
// its secrets nor its key, on either target.
func TestWhatAnImageIsToldIsNowhereElse(t *testing.T) {
	const secret = "tell-nobody-of-this"
	targets := map[string]func(*tender.Config){api.TargetProcess: func(*tender.Config) {}}
	if aMachine := machines(t); aMachine != nil {
		targets[api.TargetMicroVM] = aMachine
	}
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			l, err := live(target, func(c *tender.Config) {
				c.Secrets = append(c.Secrets, control.Secret{Name: "kept", Value: []byte(secret)})
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := l.end(); err != nil {
					t.Error(err)
				}
			}()
			s := status(t, l.Client)
			var places []string
			for _, pid := range []int{s.PID, s.TenderPID} {
				places = append(places, fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid))
			}
			// Neither the tender nor its QEMU has a folder besides.
			if err := filepath.WalkDir(l.dir, func(name string, entry fs.DirEntry, err error) error {
				if err == nil && entry.Type().IsRegular() {
					places = append(places, name)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for _, place := range places {
				b, err := os.ReadFile(place)
				if err != nil {
					t.Fatal(err)
				}
				for _, told := range []string{secret, string(l.cfg.Trust)} {
					for _, form := range []string{told, fmt.Sprintf("%x", told), fmt.Sprintf("%X", told), base64.StdEncoding.EncodeToString([]byte(told))} {
						if strings.Contains(string(b), form) {
							t.Errorf("%s has %q", place, form)
						}
					}
				}
			}
			t.Logf("%d places", len(places))
		})
	}
}

// A machine has what it needs with the least memory that documents can ask for.
func TestAMachineWithLittleMemory(t *testing.T) {
	aMachine := machines(t)
	if aMachine == nil {
		return
	}
	l, err := live(aMachine, func(c *tender.Config) { c.Memory = 32 << 20 })
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(serves(l), l.end()); err != nil {
		t.Error(err)
	}
}

// A machine that ends again and again is started again, later each time, with the program
// in force; clients wait.
func TestMachinesAreStartedAgain(t *testing.T) {
	aMachine := machines(t)
	if aMachine == nil {
		return
	}
	l, err := live(aMachine)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.end(); err != nil {
			t.Error(err)
		}
	}()
	second, err := machine.programOf(2)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := l.Replace(ctx, tender.Batch{Program: second}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		if _, err := l.tell(order{Attack: "exit: 65"}); err != nil { // a client of the life before waits for this one
			t.Fatal(err)
		}
		for {
			s, err := l.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if s.Restarts == n && s.State == tender.Ready {
				if s.Revision != 2 || !strings.Contains(s.LastError, "ran out of memory") {
					t.Errorf("life %d: %+v", n, s)
				}
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := serves(l); err != nil {
		t.Error(err)
	}
	text := logged(t, l.dir)
	for _, pause := range []string{"250ms", "500ms", "1s"} {
		if n := strings.Count(text, "starting it again in "+pause); n != 1 {
			t.Errorf("a pause of %s: %d times", pause, n)
		}
	}
}
