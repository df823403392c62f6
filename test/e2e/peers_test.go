package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
)

// The tools that others attack networks with, against images whose packets are routed
// to them. The client is in a network namespace of its own; "link" is the place where
// the tender is, so that nothing of the kernel's stands between an attempt and the image.
const (
	fromClient = "client"
	fromLink   = "link"
)

// Ports of the image in these tests.
const (
	openPort   = "8080" // served, and friends may
	deniedPort = "9090" // served, and nobody may
	sparePort  = "7000" // everybody may, and nobody serves it
)

// An attempt is one that is made on an image.
type attempt struct {
	tool string
	sent string // in words
	from string
	line string // arguments; of scapy the name in testdata/peers/hostile.py
	want string // what the tool sees; empty: whatever it is, the image lives
	test bool   // belongs to every test, and not to the long run alone
	counts
}

// counts is whether an image counts what is sent to it.
type counts int

const (
	arrives counts = iota
	frames         // no packet of IP
	stopped        // by the kernel, where the tender is
)

// peersFile names the document that a long run writes.
const peersFile = "LORICA_PEERS"

const peersPolicy = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: peers}
spec:
  selector: {matchLabels: {app: peers}}
  default: {network: Deny, authorization: Allow}
  audit: {decisions: denied}
  endpoints:
    - {name: friends, cidrs: [10.99.0.0/28, "fd99::/124", 169.254.76.0/22, "fd6c:6f72:6963:62::/64"]}
    - {name: me, cidrs: [127.0.0.1/32, "::1/128"]}
  network:
    ingress:
      - {name: open, action: Allow, from: [friends], ports: [{protocol: TCP, port: ` + openPort + `}]}
      - {name: own, action: Allow, from: [me], ports: [{protocol: TCP, port: ` + deniedPort + `}]}
      - {name: spare, action: Allow, from: [any], ports: [{protocol: TCP, port: ` + sparePort + `}]}
`

const peersWorkload = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: peers, labels: {app: peers}}
spec:
  app: {static: {dir: ./public}}
  listen:
    - {name: open, address: 10.99.0.1, port: ` + openPort + `}
    - {name: open6, address: "fd99::1", port: ` + openPort + `}
    - {name: denied, address: 10.99.0.1, port: ` + deniedPort + `}
    - {name: denied6, address: "fd99::1", port: ` + deniedPort + `}
  network: direct
  resources: {memory: 128Mi}
  confinement: {minimum: no-landlock}
`

// A network is two namespaces with a cable between them, and an image in one of them.
type network2 struct {
	t              *testing.T
	server, client string // names of the namespaces
	dev            string // the link of the image
	image4, image6 netip.Addr
	mac            string
}

// ip runs lines of ip(8).
func ip(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

func newNetwork2(t *testing.T) *network2 {
	name := fmt.Sprintf("lorica-%d-", os.Getpid())
	n := &network2{t: t, server: name + "server", client: name + "client"}
	for _, ns := range []string{n.server, n.client} {
		ip(t, "netns add "+ns)
		t.Cleanup(func() { ip(t, "netns del "+ns) })
		ip(t, "-n "+ns+" link set lo up")
	}
	ip(t, "link add server0 netns "+n.server+" type veth peer name client0 netns "+n.client)
	for i, ns := range []string{n.server, n.client} {
		dev := []string{"server0", "client0"}[i]
		for _, line := range []string{
			fmt.Sprintf("addr add 10.99.0.%d/24 dev %s", i+1, dev),
			fmt.Sprintf("addr add fd99::%d/64 dev %s nodad", i+1, dev),
			"link set " + dev + " up",
		} {
			ip(t, "-n "+ns+" "+line)
		}
	}
	ip(t, "-n "+n.client+" addr add 10.99.0.200/24 dev client0", "-n "+n.client+" addr add fd99::200/64 dev client0 nodad preferred_lft 0",
		// A client takes the address that stands for ::1 on the links of images.
		"-n "+n.client+" addr add fd6c:6f72:6963:61::1/128 dev client0 nodad preferred_lft 0", "-n "+n.server+" route add fd6c:6f72:6963:61::1/128 dev server0")
	// As doctor asks for.
	if out, err := in(n.server, "sysctl", "-q", "-w", "net.ipv4.conf.server0.forwarding=1", "net.ipv6.conf.all.forwarding=1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return n
}

// in is a command in one of the namespaces.
func in(namespace string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", namespace}, args...)...)
}

// find looks for the link of the image.
func (n *network2) find() {
	n.t.Helper()
	var links []struct {
		Ifname   string
		Addrs    []struct{ Local string } `json:"addr_info"`
		LinkInfo any                      `json:"linkinfo"`
	}
	out, err := exec.Command("ip", "-n", n.server, "-j", "addr").Output()
	if err == nil {
		err = json.Unmarshal(out, &links)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	for _, l := range links {
		if l.Ifname == "lo" || l.Ifname == "server0" {
			continue
		}
		n.dev = l.Ifname
		for _, a := range l.Addrs {
			switch addr, err := netip.ParseAddr(a.Local); {
			case err == nil && addr.Is4():
				n.image4 = addr.Next() // the other one of the link
			case err == nil && addr.Is6() && !addr.IsLinkLocalUnicast():
				n.image6 = addr.Next()
			}
		}
	}
	if !n.image4.IsValid() || !n.image6.IsValid() {
		n.t.Fatalf("the image has no link of both families: %s", out)
	}
	out, _ = exec.Command("ip", "-n", n.server, "neigh", "show", n.image4.String()).Output()
	if m := regexp.MustCompile(`lladdr (\S+)`).FindSubmatch(out); m != nil {
		n.mac = string(m[1])
	} else {
		n.t.Fatalf("the image has no hardware address: %s", out)
	}
}

// guarded reports what can be reached of the image from where the tender is, besides its
// doors.
func (n *network2) guarded() error {
	for _, at := range []string{n.image4.String(), "[" + n.image6.String() + "]"} {
		out, err := in(n.server, "curl", "-sS", "-m", "1", "http://"+at+":"+openPort+"/").CombinedOutput()
		if err == nil {
			return fmt.Errorf("the image answers at %s itself: %s", at, out)
		}
	}
	return nil
}

// unguard takes away the table that lets nothing through to the image but what comes to
// its doors, so that the image is all that stands.
func (n *network2) unguard() {
	n.t.Helper()
	if out, err := in(n.server, "nft", "delete", "table", "inet", n.dev+"-guard").CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
}

// serves asks the image, as a client does.
func (n *network2) serves(addr string) error {
	out, err := in(n.client, "curl", "-sS", "-m", "20", "-o", os.DevNull, "-w", "%{http_code}", "http://"+addr+":"+openPort+"/").CombinedOutput()
	if err != nil || string(out) != "200" {
		return fmt.Errorf("%s answers %s (%v)", addr, out, err)
	}
	return nil
}

// canHavePeers reports whether this machine can show what peers see; where not, it says
// why.
func canHavePeers(t *testing.T) bool {
	const what = "nmap, hping3 and scapy against images"
	if os.Geteuid() != 0 {
		notrun.Say(t, what, "their network namespaces need root")
		return false
	}
	for _, tool := range []string{"ip", "curl", "nft", "nmap", "hping3", "scapy"} {
		if _, err := exec.LookPath(tool); err != nil {
			notrun.Say(t, what, "there is no "+tool+" here: apt-get install iproute2 nftables curl nmap hping3 python3-scapy")
			return false
		}
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		notrun.Say(t, what, err.Error())
		return false
	} else {
		f.Close()
	}
	if out, err := exec.Command("unshare", "--net", "ip", "link", "add", "x0", "type", "veth").CombinedOutput(); err != nil {
		notrun.Say(t, what, "this machine joins no network namespaces: "+strings.TrimSpace(string(out)))
		return false
	}
	return true
}

// TestPeers is short in every test, on the target that the others are on. `make peers`
// makes all attempts, on both, and writes down what was seen.
func TestPeers(t *testing.T) {
	if !canHavePeers(t) {
		return
	}
	if network != "" { // it names its own
		return
	}
	targets, file := []string{"process"}, os.Getenv(peersFile)
	if target != "" {
		targets[0] = target
	} else if file != "" {
		targets = append(targets, "microvm")
	}
	var doc strings.Builder
	for _, target := range targets {
		t.Run(target, func(t *testing.T) {
			if target == "microvm" && !canHaveMachines(t, "nmap, hping3 and scapy against microVMs") {
				return
			}
			peers(t, target, &doc, file != "" && !testing.Short())
		})
	}
	if file != "" && !t.Failed() {
		if err := os.WriteFile(file, []byte(peersHead(t)+doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// peersOf is the seen image with all that is around it.
func peers(t *testing.T, target string, doc *strings.Builder, all bool) {
	u, n := newUser(t), newNetwork2(t)
	dir := u.project(map[string]string{"workload.yaml": peersWorkload, "policy.yaml": peersPolicy, "public/index.html": "hello\n"})
	cmd := in(n.server, binary, "up", "-f", dir, "-o", "json", "--target", target)
	cmd.Env, cmd.Dir = u.env(), u.home
	_, first := u.follow(cmd)
	if first.Way != "routed" {
		notrun.Say(t, "nmap, hping3 and scapy against a "+target, "clients' packets are not routed to it here, but come "+first.Way)
		return
	}
	for _, addr := range []string{"10.99.0.1", "[fd99::1]"} {
		if err := n.serves(addr); err != nil {
			t.Fatal(err)
		}
	}
	n.find()
	if err := n.guarded(); err != nil {
		t.Error(err)
	}
	scapy := n.scapy()
	fmt.Fprintf(doc, "\n## Target: %s\n\n| tool | from | sent | saw | expected |\n|---|---|---|---|---|\n", target)
	list := slices.DeleteFunc(slices.Clone(attempts), func(a attempt) bool { return !all && !a.test })
	slices.SortStableFunc(list, func(a, b attempt) int { return cmp.Compare(a.from, b.from) }) // clients first
	for i, a := range list {
		if a.from == fromLink && (i == 0 || list[i-1].from != fromLink) {
			n.unguard()
		}
		t.Run(a.tool+" "+a.sent, func(t *testing.T) {
			before := u.ps()
			if a.counts != arrives {
				before = u.quiet()
			}
			saw, err := n.try(a, scapy)
			for more := 0; more < 3 && err == nil && saw == nobody && a.want != "" && a.want != nobody; more++ {
				saw, err = n.try(a, scapy) // on a busy machine a packet is lost, or late
			}
			if err != nil {
				t.Fatalf("%s: %v", a.line, err)
			}
			if after := u.ps(); (after.counted() > before.counted()) != (a.counts == arrives) {
				t.Errorf("%s %s was counted as %+v, after %+v", a.tool, a.line, after.Stats.Packets, before.Stats.Packets)
			}
			if a.want != "" && saw != a.want {
				t.Errorf("%s %s: saw %q, not %q", a.tool, a.line, saw, a.want)
			}
			for _, addr := range []string{"10.99.0.1", "[fd99::1]"} {
				if err := n.serves(addr); err != nil {
					t.Errorf("after %s %s: %v", a.tool, a.line, err)
				}
			}
			now := u.ps()
			if now.PID != first.PID || now.Restarts != 0 {
				t.Errorf("after %s %s it is another image: %+v", a.tool, a.line, now)
				first = &now
			}
			want := a.want
			if want == "" {
				want = "it lives"
			}
			fmt.Fprintf(doc, "| %s | %s | %s | %s | %s |\n", a.tool, a.from, a.sent, saw, want)
		})
	}
	if lines := u.run("logs", first.Instance); strings.Contains(lines, "panic") {
		t.Errorf("the image said:\n%s", lines)
	}
}

// quiet returns the status when nothing arrives any more: an image answers a flood again
// and again, and is told as often that nobody is there.
func (u *user) quiet() status {
	s := u.ps()
	for range 120 {
		time.Sleep(time.Second)
		next := u.ps()
		if next.counted() == s.counted() {
			break
		}
		s = next
	}
	return s
}

// counted is all packets that arrived.
func (s *status) counted() uint64 {
	p := s.Stats.Packets
	return p.In + p.Denied + p.Malformed
}

// try makes an attempt, and returns what its tool saw.
func (n *network2) try(a attempt, scapy func(string) (string, error)) (string, error) {
	namespace, at4, at6 := n.client, "10.99.0.1", "fd99::1"
	if a.from == fromLink {
		namespace, at4, at6 = n.server, n.image4.String(), n.image6.String()
		if a.tool == "nmap" { // whose packets the kernel would put in order else
			a.line += " --send-eth -e " + n.dev
		}
	}
	line := strings.NewReplacer("{4}", at4, "{6}", at6, "{dev}", n.dev).Replace(a.line)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", namespace}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	switch a.tool {
	case "nmap":
		out, err := run(append([]string{"nmap", "-n", "-Pn", "-oX", "-", "--max-retries", "1"}, strings.Fields(line)...)...)
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return nmapSaw(out)
	case "hping3":
		out, err := run(append([]string{"timeout", "-s", "INT", "3", "hping3", "-n"}, strings.Fields(line)...)...)
		return hpingSaw(out, err)
	case "curl":
		out, err := run(append([]string{"curl", "-sS", "-m", "3"}, strings.Fields(line)...)...)
		if err == nil {
			return "an answer", nil
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return map[int]string{7: "no connection", 28: "nothing", 56: "a reset"}[exit.ExitCode()], nil
		}
		return out, err
	}
	return scapy(a.line)
}

var countOf = regexp.MustCompile(`(\d+) packets (?:transmitted|tramitted), (\d+) packets received`)

// hpingSaw is how many packets were answered, and with which flags.
func hpingSaw(out string, err error) (string, error) {
	m := countOf.FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	if strings.Contains(out, "flood mode") {
		return m[1] + " packets sent", nil
	}
	saw := m[2] + " answers to " + m[1]
	for _, f := range regexp.MustCompile(`flags=(\w+)`).FindAllStringSubmatch(out, 1) {
		saw += ": " + f[1]
	}
	return saw, nil
}

// nmapSaw is the state of each port, and why nmap thinks so.
func nmapSaw(out string) (string, error) {
	var x struct {
		Hosts []struct {
			Ports []struct {
				ID    string `xml:"portid,attr"`
				State struct {
					State  string `xml:"state,attr"`
					Reason string `xml:"reason,attr"`
				} `xml:"state"`
			} `xml:"ports>port"`
			Systems []struct {
				Name     string `xml:"name,attr"`
				Accuracy string `xml:"accuracy,attr"`
			} `xml:"os>osmatch"`
			Sequence struct {
				Difficulty string `xml:"difficulty,attr"`
			} `xml:"tcpsequence"`
		} `xml:"host"`
	}
	if err := xml.Unmarshal([]byte(out), &x); err != nil || len(x.Hosts) != 1 {
		return "", fmt.Errorf("%d hosts, %w: %s", len(x.Hosts), err, out)
	}
	var saw []string
	for _, p := range x.Hosts[0].Ports {
		saw = append(saw, fmt.Sprintf("%s %s (%s)", p.ID, p.State.State, p.State.Reason))
	}
	for i, s := range x.Hosts[0].Systems {
		if i < 2 {
			saw = append(saw, fmt.Sprintf("perhaps %s (%s %%)", s.Name, s.Accuracy))
		}
	}
	if d := x.Hosts[0].Sequence.Difficulty; d != "" {
		saw = append(saw, "sequence numbers: "+d)
	}
	return strings.Join(saw, ", "), nil
}

// scapy starts the program that sends what no kernel would, and returns how to ask it
// for an attempt.
func (n *network2) scapy() func(name string) (string, error) {
	n.t.Helper()
	cmd := in(n.server, "/usr/bin/python3", "testdata/peers/hostile.py", n.dev, n.image4.String(), n.image6.String(), n.mac, openPort, deniedPort, sparePort)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ask, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { ask.Close(); cmd.Wait() })
	lines := bufio.NewReader(answers)
	if _, err := lines.ReadString('\n'); err != nil {
		n.t.Fatal(err)
	}
	return func(name string) (string, error) {
		if _, err := io.WriteString(ask, name+"\n"); err != nil {
			return "", err
		}
		line, err := lines.ReadString('\n')
		return strings.TrimSpace(line), err
	}
}

// peersHead begins the document.
func peersHead(t *testing.T) string {
	versions := ""
	for _, p := range []string{"nmap", "hping3", "python3-scapy"} {
		if v, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", p).Output(); err == nil {
			versions += fmt.Sprintf(", %s %s", p, v)
		}
	}
	notrun.Say(t, "packetdrill against images", "it is not in Debian 12")
	return fmt.Sprintf(`# What others' tools see

Written by %smake peers%s on %s%s. Clients are in a network namespace of their own, joined by a cable to the one where the image is, and their packets are
routed to it. "link" is the place of the tender, without the table that it has there: what is sent arrives at the image as it is. After each attempt the image still serves over both families, it
is the same process that did before, and it has counted what arrived.

Port %s is served and the sender may use it; %s is served and only the machine itself may; %s is nobody's and everybody may. Nothing else is allowed.

packetdrill was not run: Debian 12 does not have it.
`, "`", "`", time.Now().UTC().Format("2006-01-02"), versions, openPort, deniedPort, sparePort)
}
