package redteam

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/tender"
)

// dials gives the attacker a dial socket, and one address that it may connect to.
func dials(t *testing.T, port uint16) func(*tender.Config) {
	s := egress.Section{Lists: []egress.List{{Rule: abi.Rule{ID: abi.RuleEgress}, Rules: []egress.Rule{{Rule: abi.Rule{ID: "out"}, Verdict: abi.Allow,
		CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Ports: []egress.Ports{{Lo: port, Hi: port}}}}}}}
	return func(c *tender.Config) {
		c.Program = signed(t, 1, program.Section{Name: egress.Name, Data: s.Encode()})
		c.Secrets = append(c.Secrets, control.Secret{Name: "port", Value: []byte(fmt.Sprint(port))})
	}
}

// The attacks below prove something only because this image, whose dials are as
// they should be, lives; and even it reaches nothing but what a rule allows.
func TestAnHonestDialerLives(t *testing.T) {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, cfg, err := launch(t, "dial as an honest image", dials(t, ln.Addr().(*net.TCPAddr).AddrPort().Port()))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(logged(t, cfg.Dir), "dialed 169.254.169.254") && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	text := logged(t, cfg.Dir)
	for _, want := range []string{"dialed 127.0.0.1: connected", "dialed 127.0.0.2: refused", "dialed 0.0.0.0: refused", "dialed 169.254.169.254: refused", "no connection to 127.0.0.2"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the log: %s", want, text)
		}
	}
	alive(t, c)
}

// What an image says out of place on its dial socket is its last word.
func TestHostileDialersEnd(t *testing.T) {
	for name, want := range map[string]string{
		"dial garbage":              "the image was killed: dial socket: egress: a message of kind 103",
		"dial half a message":       "too short",
		"dial a long message":       "a message is too long",
		"dial as a tender":          "a message of kind 65",
		"close what was never open": "connection 7, which it does not have",
		"close the dial socket":     "EOF",
		"pass descriptors":          "it sent a descriptor",
		"ask without listening":     "it does not take what it asked for",
		"send on the dial socket":   sigsys,
		"receive on another socket": sigsys,
		"duplicate a descriptor":    sigsys,
		"connect the dial socket":   sigsys,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if reason, _ := death(t, name, dials(t, 9)); !strings.Contains(reason, want) {
				t.Errorf("it ended otherwise: %s", reason)
			}
		})
	}
}

// A flood of dials does not grow the tender, its folder, or its answers.
func TestAFloodOfDialsIsBounded(t *testing.T) {
	c, cfg, err := launch(t, "a flood of dials", dials(t, 9))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	s := alive(t, c)
	if kib := resident(t, s.TenderPID); kib > maxResident {
		t.Errorf("the tender has grown to %d KiB", kib)
	}
	if lines := strings.Count(logged(t, cfg.Dir), "\n"); lines == 0 || lines > 200 {
		t.Errorf("%d lines of log", lines)
	}
}
