package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"lorica.dev/lorica/test/freeport"
)

// starts measures what one pays before the first request and while there is none.
func (b *bench) starts() error {
	var first, idle []float64
	for range b.rounds {
		port, err := freeport.Find()
		if err != nil {
			return err
		}
		dir, err := b.project("starts", workload("starts", b.app(), port), fullPolicy(port, size{100, 100}))
		if err != nil {
			return err
		}
		boot, memory, err := b.start(dir, port)
		if err != nil {
			return err
		}
		first, idle = append(first, boot), append(idle, memory)
	}
	b.add(&figure{Name: "exec-to-first-answer", Unit: "ms", Values: first, Target: 20, AtMost: true})
	b.add(&figure{Name: "idle-memory", Unit: "MB", Values: idle, Target: 16, AtMost: true})

	gateway := filepath.Join(b.root, "examples", "payments")
	out, err := b.command("build", "-f", gateway, "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("building %s: %w", gateway, err)
	}
	size, err := largestImage(filepath.Join(b.home(), ".local", "share", "lorica"), string(out))
	if err != nil {
		return err
	}
	b.add(&figure{Name: "gateway-image", Unit: "MB", Values: []float64{size / 1e6}, Target: 12, AtMost: true})

	var plans []float64
	for range 2 * b.rounds {
		begin := time.Now()
		if err := b.command("plan", "-f", gateway).Run(); err != nil {
			return err
		}
		plans = append(plans, float64(time.Since(begin).Microseconds())/1000)
	}
	b.add(&figure{Name: "plan", Unit: "ms", Values: plans, Target: 100, AtMost: true})
	return nil
}

// start brings an image up and returns the milliseconds from the start of its
// launch to its first answer, and its resident memory in MB a moment later.
func (b *bench) start(dir string, port int) (boot, memory float64, err error) {
	x, err := b.up(dir)
	if err != nil {
		return 0, 0, err
	}
	defer x.stop()
	c := caller{addr: fmt.Sprintf("127.0.0.1:%d", port)}
	defer c.close()
	begin := time.Now()
	if _, err := c.get("/accounts/1"); err != nil {
		return 0, 0, err
	}
	boot = x.ready.Status.BootMillis + float64(time.Since(begin).Microseconds())/1000
	time.Sleep(3 * time.Second)
	bytes, err := resident(x.ready.Status.PID)
	return boot, bytes / 1e6, err
}

// largestImage returns the size of the largest image that build names.
func largestImage(data, out string) (float64, error) {
	size := 0.0
	err := filepath.WalkDir(data, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "manifest.json" {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var m struct {
			Digest string  `json:"digest"`
			Size   float64 `json:"size"`
		}
		if json.Unmarshal(text, &m) == nil && m.Digest != "" && strings.Contains(out, m.Digest) {
			size = math.Max(size, m.Size)
		}
		return nil
	})
	if err == nil && size == 0 {
		err = fmt.Errorf("no manifest of an image that was built is below %s", data)
	}
	return size, err
}

// basic measures passwords on both sides, verifiers of equal cost: ours is
// argon2id, Caddy's is bcrypt.
func (b *bench) basic() error {
	line := b.command("passwd", "ada", "--groups", "g0")
	line.Stdin = strings.NewReader("lovelace\n")
	users, err := line.Output()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "users.txt"), users, 0o600); err != nil {
		return err
	}
	begin := time.Now()
	argon2.IDKey([]byte("lovelace"), make([]byte, 16), 2, 19456, 1, 32)
	argon := time.Since(begin)
	var hash []byte
	for cost := bcrypt.MinCost; cost < 15; cost++ { // the first that does not cost less than two thirds of ours
		begin := time.Now()
		if hash, err = bcrypt.GenerateFromPassword([]byte("lovelace"), cost); err != nil {
			return err
		}
		if time.Since(begin) > argon*2/3 {
			break
		}
	}
	image, stop, err := b.sealed("basic", func(int) string {
		return plainPolicy + fmt.Sprintf("  authentication: {require: true, basic: {name: login, realm: bench, users: secret/users}}\n  secrets: {users: {file: %s/users.txt}}\n", b.dir)
	})
	if err != nil {
		return err
	}
	defer stop()
	caddy, stop, err := b.caddy(fmt.Sprintf("\tbasicauth bcrypt bench {\n\t\tada %s\n\t}\n", base64.StdEncoding.EncodeToString(hash)))
	if err != nil {
		b.cannot("passwords against caddy", err)
		return nil
	}
	defer stop()
	script := filepath.Join(b.dir, "basic.lua")
	text := fmt.Sprintf("wrk.headers[\"Authorization\"] = \"Basic %s\"\n", base64.StdEncoding.EncodeToString([]byte("ada:lovelace")))
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		return err
	}
	list, err := rounds(b.rounds, b.seconds, script, image, caddy)
	if err != nil {
		return err
	}
	b.add(&figure{Name: "basic-over-caddy", Unit: "x", Values: over(list[0], list[1]), Target: 2})
	return nil
}
