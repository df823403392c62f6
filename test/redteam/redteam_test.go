package redteam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender"
)

// The attacks below prove something only because this image, which does not
// attack, lives.
func TestAnHonestImageLives(t *testing.T) {
	for _, name := range []string{"none", "elsewhere"} {
		t.Run(name, func(t *testing.T) {
			c, cfg, err := launch(t, name)
			if err != nil {
				t.Fatal(err)
			}
			alive(t, c)
			a, err := c.Replace(context.Background(), tender.Batch{Program: signed(t, 2), Secrets: cfg.Secrets})
			if err != nil || a.Revision != 2 {
				t.Errorf("replaced: %+v, %v", a, err)
			}
			if s := alive(t, c); s.Tier != attacker.tier.String() {
				t.Errorf("status is %+v", s)
			}
		})
	}
}

const sigsys = "killed by SIGSYS"

// Every one of these calls must end the process; an image that gets an answer,
// even an error, says so in the log.
func TestForbiddenCallsKill(t *testing.T) {
	for _, name := range []string{
		"mmap over it", "mmap in the middle", "mmap from the guard", "mmap from far below, long", "mmap of its descriptor",
		"mmap of shared memory", "mmap of executable memory", "munmap", "munmap from the guard", "munmap from far below, long",
		"madvise DONTNEED", "madvise REMOVE from the guard", "madvise from far below, long", "mprotect", "mprotect from the guard",
		"pkey_mprotect", "mremap away", "mremap onto it", "remap_file_pages", "process_madvise", "shmat", "/proc/self/mem", "process_vm_writev",
		"mmap over it, before the seal", "mmap writable, before the seal", "munmap, before the seal", "madvise, before the seal",
		"mprotect, before the seal", "write into it, before the seal", "shorten it, before the seal", "punch a hole, before the seal",
		"process_vm_writev, before",

		"open", "exec", "fork", "vfork by clone", "clone3", "a new namespace", "socket", "connect", "bind", "ptrace",
		"kill another", "kill everybody", "tgkill another", "prctl", "another filter", "memfd_create", "io_uring", "userfaultfd", "bpf",
		"keyctl", "dup a foreign descriptor", "stop the listener", "chmod", "the x32 table", "reconfigure the device",
		"mount, before the seal", "fork, before the seal", "bind, before the seal", "ptrace, before the seal", "execveat, before the seal",
		"outlive the tender", "listen to its own filter",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reason, dir := death(t, name)
			if !strings.Contains(reason, sigsys) {
				t.Errorf("it ended otherwise: %s", reason)
			}
			if text := logged(t, dir); strings.Contains(text, "survived") {
				t.Errorf("the call was answered: %s", text)
			}
		})
	}
}

func TestEndsOtherwise(t *testing.T) {
	const starved = "more than the 80 MiB of its cgroup" // where it has one, whatever it ends by elsewhere
	ways := map[string]struct{ reason, log string }{
		"a store":                  {"exit status 2", "unexpected fault address 0x6000"},
		"a store, before the seal": {"exit status 2", "unexpected fault address 0x6000"},
		"open, before the seal":    {"exit status 4", "permission denied"},
		"connect, before the seal": {"exit status 4", "permission denied"},
		"more memory than it may":  {"exit status 2; it said: fatal error: ", "out of memory"},
		"more threads than it may": {"exit status 2; it said: fatal error", "failed to create new OS thread"},
	}
	if attacker.tier != api.TierFull { // only a user namespace counts its own threads
		delete(ways, "more threads than it may")
	}
	for name, want := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reason, dir := death(t, name)
			if strings.HasPrefix(name, "more ") && strings.Contains(reason, starved) {
				return
			}
			if text := logged(t, dir); !strings.Contains(reason, want.reason) || !strings.Contains(text, want.log) {
				t.Errorf("it ended with %q; the log: %s", reason, text)
			}
		})
	}
}

// What an image says out of place is its last word.
func TestLiesEndTheImage(t *testing.T) {
	for name, want := range map[string]string{
		"another plan":            "another plan",
		"another version":         fmt.Sprintf("version %d of the contract", abi.Version+2),
		"ready without hello":     "its first word is of kind 65",
		"ready without a seal":    "1 system call filters, expected 2",
		"a seal that allows all":  "3 system call filters, expected 2",
		"records before ready":    "before it was ready",
		"garbage":                 "the limit is 65536",
		"garbage at once":         "the limit is 65536",
		"a giant length":          "frame of 4294967295 bytes",
		"a frame just too long":   "frame of 65537 bytes",
		"a giant count":           "kind 69: wire: input is too short",
		"an unknown kind":         "kind 200 is unknown",
		"a frame of the tender":   "it sent kind 7",
		"hello twice":             "it sent kind 64",
		"ready twice":             "it sent kind 65",
		"prepared unasked":        "prepared what nobody asked for",
		"committed unasked":       "committed what nobody asked for",
		"statistics unasked":      "statistics that nobody asked for",
		"released unasked":        "released program slot 1",
		"release of what is used": "released program slot 0",
		"release of no slot":      "released program slot 255",
		"drained unasked":         "it sent kind 72",
		"records out of order":    "batch 7 of records where 1 was due",
		"a closed channel":        "", // whoever notices first, reader or writer, says why
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if reason, _ := death(t, name); !strings.Contains(reason, "the image was killed: ") || !strings.Contains(reason, want) {
				t.Errorf("it ended otherwise: %s", reason)
			}
		})
	}
}

// An image that never answers costs one wait, then its life.
func TestSilence(t *testing.T) {
	patient := func(c *tender.Config) { c.Patience = time.Second }
	for _, name := range []string{"deaf", "half a frame, then nothing"} {
		t.Run(name, func(t *testing.T) {
			c, _, err := launch(t, name, patient)
			if err != nil {
				t.Fatal(err)
			}
			alive(t, c)
			if _, err := c.Replace(context.Background(), tender.Batch{Program: signed(t, 2)}); err == nil || !strings.Contains(err.Error(), "no answer within 1s") {
				t.Errorf("replaced: %v", err)
			}
			if reason := died(t, c); !strings.Contains(reason, "no answer") {
				t.Errorf("it ended otherwise: %s", reason)
			}
		})
	}
	t.Run("deaf to drain", func(t *testing.T) {
		c, cfg, err := launch(t, "deaf to drain", patient)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.Drain(ctx, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(ctx); err != nil {
			t.Fatalf("the tender does not end: %v", err)
		}
		if text := logged(t, cfg.Dir); !strings.Contains(text, "did not drain in time") {
			t.Errorf("the log says: %s", text)
		}
	})
}

// maxResident bounds a tender's memory under attack, in KiB: the Go runtime, a
// frame each way, and nothing that grows.
const maxResident = 96 << 10

func TestFloodsAreBounded(t *testing.T) {
	for _, name := range []string{"a flood of records", "a flood of logs", "a flood of output"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, cfg, err := launch(t, name)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			s := alive(t, c)
			if kib := resident(t, s.TenderPID); kib > maxResident {
				t.Errorf("the tender has grown to %d KiB", kib)
			}
			if size := folder(t, cfg.Dir); size == 0 || size > 19<<20 {
				t.Errorf("its folder has %d bytes", size)
			}
		})
	}
}

func resident(t *testing.T, pid int) int {
	t.Helper()
	kib, err := residentOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// residentOf returns the memory of a process, in KiB.
func residentOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib, nil
		}
	}
	return 0, errors.New("no VmRSS")
}

func folder(t *testing.T, dir string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil {
			size += info.Size()
		}
	}
	return size
}

// Nothing that an image says can act on a terminal or forge a line.
func TestTextOfTheImageIsHarmless(t *testing.T) {
	c, cfg, err := launch(t, "control characters")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var seen []tender.Decision
	c.Decisions(ctx, 0, true, func(d tender.Decision) error {
		seen = append(seen, d)
		return context.Canceled
	})
	alive(t, c)
	if len(seen) != 1 || seen[0].Seq != 1 || seen[0].Path != `\x1b]0;owned\a\x1b[2J\u202egnp.exe\u009b31m\xff\r\n{"seq":1}` {
		t.Errorf("decisions are %+v", seen)
	}
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.jsonl"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files are %q (%v)", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var v any
			if json.Unmarshal([]byte(line), &v) != nil || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x00\x07\x1b\r\u202e\u009b") {
				t.Errorf("a line of %s is %q", f, line)
			}
		}
	}
}

// What namespaces and Landlock give on top is not what the seal stands on.
func TestSealHoldsAtWeakerTiers(t *testing.T) {
	if attacker.tier != api.TierFull {
		notrun.Say(t, "attacks against full confinement", "this machine gives tier "+attacker.tier.String())
	}
	for _, tier := range []api.Tier{api.TierNoUserns, api.TierNoLandlock} {
		for _, name := range []string{"mmap over it", "open", "kill another", "mmap over it, before the seal"} {
			t.Run(tier.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				reason, _ := death(t, name, func(c *tender.Config) { c.Minimum, c.Weaken = api.TierNoLandlock, tier })
				if !strings.Contains(reason, sigsys) {
					t.Errorf("it ended otherwise: %s", reason)
				}
			})
		}
	}
}
