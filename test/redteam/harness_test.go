package redteam

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/way"
)

// attacker is the built image and everything that launches of it share.
var attacker struct {
	path, digest string
	calls        []catalog.Syscall
	tier         api.Tier // what this machine gives
	trust        ed25519.PublicKey
}

// The test binary is also the tender and its stage, as cmd/lorica is.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	body := map[string]func() error{"tender": tender.Main, process.StageCommand: tender.Stage, way.HelperCommand: tender.WayHelper}
	if len(os.Args) == 2 && body[os.Args[1]] != nil {
		if err := body[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	dir, err := os.MkdirTemp("", "redteam")
	if err == nil {
		defer os.RemoveAll(dir)
		err = prepare(dir)
	}
	if err == nil && os.Getenv("LORICA_BUILT") == "" { // see prepare
		err = prepareHostile(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// prepare builds the attacker and reads what the manifests of a plain image
// list: attacks are made against the real seal.
func prepare(dir string) error {
	if built := os.Getenv("LORICA_BUILT"); built != "" { // where there is no Go toolchain: make kernels
		attacker.path = filepath.Join(built, "attacker")
	} else {
		attacker.path = filepath.Join(dir, "attacker")
		cmd := exec.Command("go", "build", "-trimpath", "-o", attacker.path, "./attacker")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building the attacker: %w\n%s", err, out)
		}
	}
	b, err := os.ReadFile(attacker.path)
	if err != nil {
		return err
	}
	attacker.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	c, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		return err
	}
	attacker.calls = catalog.Syscalls(c.Modules)
	attacker.tier = process.Probe().Tier
	attacker.trust = key.Public().(ed25519.PublicKey)
	return nil
}

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))

func signed(t *testing.T, revision uint64, sections ...program.Section) []byte {
	t.Helper()
	id, err := program.ParsePlanID(plan)
	if err != nil {
		t.Fatal(err)
	}
	b, err := program.Sign(&program.Program{Plan: id, Revision: revision, Tenant: "acme", Workload: "test", Levels: []string{"normal"}, Sections: sections}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const plan = "7265647465616d7265647465616d7265647465616d7265647465616d72656474"

// launch starts the attacker under a tender of its own. The error is the
// tender's, where the image never became ready.
func launch(t *testing.T, attack string, change ...func(*tender.Config)) (*tender.Client, tender.Config, error) {
	t.Helper()
	return launchAs(t, []string{"/proc/self/exe", "tender"}, attack, change...)
}

func launchAs(t *testing.T, exe []string, attack string, change ...func(*tender.Config)) (*tender.Client, tender.Config, error) {
	t.Helper()
	cfg := tender.Config{Instance: "attacker", Tenant: "acme", Workload: "test", Dir: t.TempDir(), Image: attacker.path, ImageDigest: attacker.digest,
		Plan: plan, Syscalls: attacker.calls, Trust: attacker.trust, Program: signed(t, 1),
		Secrets: []control.Secret{{Name: "attack", Value: []byte(attack)}},
		Listen:  []tender.Listener{{Name: "api", Address: "127.0.0.1"}}, Memory: 16 << 20, Minimum: attacker.tier, MaxProcs: 2, Patience: 3 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := tender.Start(ctx, exe, cfg, nil)
	if err != nil {
		return nil, cfg, err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c.Stop(ctx)
		if err := c.Wait(ctx); err != nil {
			t.Errorf("the tender does not end: %v", err)
		}
	})
	return c, cfg, nil
}

func status(t *testing.T, c *tender.Client) tender.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// alive fails the test unless the instance answers and has never died.
func alive(t *testing.T, c *tender.Client) tender.Status {
	t.Helper()
	s := status(t, c)
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.Listen[0].Port), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if b, err := io.ReadAll(conn); string(b) != "alive\n" {
		t.Errorf("the image answers %q (%v)", b, err)
	}
	if s.State != tender.Ready || s.Restarts != 0 {
		t.Errorf("status is %+v", s)
	}
	return s
}

// death returns why the attacker ended, whether it was ready before or not.
func death(t *testing.T, attack string, change ...func(*tender.Config)) (reason string, dir string) {
	t.Helper()
	c, cfg, err := launch(t, attack, change...)
	if err != nil {
		return err.Error(), cfg.Dir
	}
	return died(t, c), cfg.Dir
}

func died(t *testing.T, c *tender.Client) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if s := status(t, c); s.Restarts > 0 {
			return s.LastError
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the image lives on")
	return ""
}

// logged returns everything in the log of a runtime folder.
func logged(t *testing.T, dir string) string {
	t.Helper()
	text, err := loggedIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func loggedIn(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "log-*.jsonl"))
	var all strings.Builder
	for _, f := range files {
		b, failed := os.ReadFile(f)
		err = errors.Join(err, failed)
		all.Write(b)
	}
	return all.String(), err
}
