package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/test/conform/packets"
	"lorica.dev/lorica/test/wire"
)

const (
	packetsOfImages = "LORICA_PACKETS"        // how many are sent to each image; few where it is not set
	inside          = "LORICA_CONFORM_INSIDE" // the folder of the command, in a network of its own
	fewPackets      = 6000
	eachPolicy      = 2000 // packets, at least
	window          = 200  // packets that an image has not read yet; the link holds more
	served          = 8080
	answerPatience  = 2 * time.Second
	tries           = 8
)

// TestRunningImagesJudgeAsTheReferenceSays sends packets to images that run, sealed, of
// both targets, on the links that they have. What comes back and what they count must be
// what package policy says of each, and the rules that they were given.
func TestRunningImagesJudgeAsTheReferenceSays(t *testing.T) {
	if dir := os.Getenv(inside); dir != "" {
		runningImages(t, dir)
		return
	}
	const what = "packets to running images"
	if os.Geteuid() != 0 {
		notrun.Say(t, what, "their network namespaces need root")
		return
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		notrun.Say(t, what, err.Error())
		return
	} else {
		f.Close()
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "lorica"), "lorica.dev/lorica/cmd/lorica")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.CopyFS(filepath.Join(dir, "public"), os.DirFS("testdata/public")); err != nil {
		t.Fatal(err)
	}
	writePolicy(t, dir, 0)
	for _, target := range runningTargets(t) { // here, where there is a network to fetch from
		if out, err := lorica(dir, "build", "-f", filepath.Join(dir, "p.yaml"), "--target", target).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	again := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "0")
	again.Env = append(os.Environ(), inside+"="+dir)
	again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGINT}
	out, err := again.CombinedOutput()
	t.Logf("in a network of its own:\n%s", out)
	if err != nil {
		t.Error(err)
	}
}

func runningTargets(t *testing.T) []string {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		notrun.Say(t, "packets to running microVMs", "there is no qemu-system-x86_64 here: apt-get install qemu-system-x86")
		return []string{api.TargetProcess}
	}
	return api.Targets()
}

func lorica(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(dir, "lorica"), args...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	for _, key := range []string{"GOCACHE", "GOMODCACHE"} {
		if out, err := exec.Command("go", "env", key).Output(); err == nil {
			cmd.Env = append(cmd.Env, key+"="+strings.TrimSpace(string(out)))
		}
	}
	return cmd
}

// writePolicy writes a workload and a policy of a seed, and returns what they mean. The
// image has both families.
func writePolicy(t *testing.T, dir string, seed uint64) *policy.Deployment {
	t.Helper()
	doc := strings.Replace(seeded(seed).ingress(), "  listen: [{", "  network: direct\n  listen: [{address: \"::1\", ", 1)
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	return load(t, doc)
}

func runningImages(t *testing.T, dir string) {
	for _, line := range []string{"link set lo up", "route add blackhole default", "-6 route add blackhole default"} { // what answers nobody goes nowhere
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	n := fewPackets
	if s := os.Getenv(packetsOfImages); s != "" {
		n = must(strconv.Atoi(s))
	}
	for _, target := range runningTargets(t) {
		t.Run(target, func(t *testing.T) { runningImage(t, dir, target, n) })
	}
}

// An uppedImage is an image that 'up' has brought up.
type uppedImage struct {
	t      *testing.T
	dir    string
	events *bufio.Scanner
}

// wait waits for an event of 'up'.
func (u *uppedImage) wait(kind string) (status struct{ Way string }) {
	u.t.Helper()
	for u.events.Scan() {
		var e struct {
			Event, Text string
			Status      *struct{ Way string }
		}
		if json.Unmarshal(u.events.Bytes(), &e) != nil {
			continue
		}
		if e.Event == kind {
			if e.Status != nil {
				status = *e.Status
			}
			return status
		}
		if e.Event == "refused" {
			u.t.Fatalf("refused: %s", e.Text)
		}
	}
	u.t.Fatalf("up ended before %q", kind)
	return status
}

// tallies are what an image counts of packets.
type tallies struct {
	In, Denied, Malformed uint64
	Rules                 []struct {
		Rule    string
		Packets uint64
	}
}

func (u *uppedImage) counters() tallies {
	u.t.Helper()
	out, err := lorica(u.dir, "ps", "-o", "json").Output()
	var list []struct{ Stats struct{ Packets tallies } }
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err != nil || len(list) != 1 {
		u.t.Fatalf("ps: %v: %s", err, out)
	}
	return list[0].Stats.Packets
}

func runningImage(t *testing.T, dir, target string, n int) {
	up := lorica(dir, "up", "-f", filepath.Join(dir, "p.yaml"), "-o", "json", "--target", target)
	out, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	up.Stderr = &said
	writePolicy(t, dir, 0)
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	u := &uppedImage{t, dir, bufio.NewScanner(out)}
	defer func() {
		up.Process.Signal(syscall.SIGINT)
		io.Copy(io.Discard, out)
		up.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	}()
	if way := u.wait("ready").Way; way != "routed" {
		notrun.Say(t, "packets to a running "+target, "they are not routed to it here, but come "+way)
		return
	}
	u.wait("up")
	devices := must(wire.Devices())
	if len(devices) != 1 {
		t.Fatalf("links of images: %v", devices)
	}
	w, err := wire.Open(devices[0])
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	h, earlier := listen(w), map[question]flow.Flow{}
	each := max(eachPolicy, n/100)
	sum := map[string]int{}
	for seed, sent := uint64(0), 0; sent < n; sent += each {
		if seed > 0 {
			writePolicy(t, dir, seed)
			u.wait("applied")
		}
		before := u.counters()
		a := newAsked(t, writePolicy(t, dir, seed), w, seed, each)
		a.earlier = earlier
		h.ask(t, a)
		a.check(t, h, before, u.counters(), sum)
		if t.Failed() {
			t.Fatalf("under policy %d:\n%s", seed, must(os.ReadFile(filepath.Join(dir, "p.yaml"))))
		}
		seed++
		for q := range a.want {
			earlier[q] = a.flows[q]
		}
	}
	for _, want := range []string{"SYN-ACK", "RST", "prohibited", "echo reply", "port unreachable", "denied", "malformed"} {
		if sum[want] == 0 {
			t.Errorf("nothing of all this was %s: %v", want, sum)
		}
	}
	t.Logf("%s: %v", target, sum)
}

// A question is what tells a packet and its answers from others.
type question struct {
	client       netip.Addr
	cport, dport uint16
	protocol     flow.Protocol
}

// An expectation is what may come back, and what must.
type expectation struct {
	may  []string
	must bool
	form string
}

// asked are packets under a policy.
type asked struct {
	list   []packets.Packet
	want   map[question]expectation
	flows  map[question]flow.Flow
	rules  *flow.Section
	counts tallies // what all of them are to come to, with
	by     map[string]uint64

	earlier map[question]flow.Flow // under other policies
}

// newAsked generates packets and asks the reference, and the rules, about them.
func newAsked(t *testing.T, d *policy.Deployment, w *wire.Wire, seed uint64, n int) *asked {
	t.Helper()
	l := must(compiler.Compile(d)).Levels[0]
	s := must(flow.Decode(l.Program(d, program.PlanID{}, 1).Section(flow.Name)))
	a := &asked{want: map[question]expectation{}, flows: map[question]flow.Flow{}, rules: &s, by: map[string]uint64{}}
	protocols := map[flow.Protocol]string{flow.TCP: "TCP", flow.UDP: "UDP", flow.ICMP: api.ICMP}
	for _, p := range packets.Generate(seed, n, packets.Target{V4: w.Image4, V6: w.Image6, Ports: []uint16{served}}, &s) {
		q, flags, ok := read(p.Bytes, false)
		if _, twice := a.want[q]; twice || p.Flow.Src.IsValid() && (!ok || p.Flow.Src.IsLoopback() || p.Flow.Src == w.Host4 || p.Flow.Src == w.Host6) {
			continue // what answers loopback would be heard by this machine, which has more to say
		}
		a.list = append(a.list, p)
		if !p.Flow.Src.IsValid() {
			a.counts.Malformed++
			if ok {
				a.want[q] = expectation{form: p.Form}
			}
			continue
		}
		r := a.count(&p)
		v := d.Classify(d.Policy.Levels.Names[0], api.Packet{From: p.Flow.Src, Protocol: protocols[p.Flow.Protocol], Port: p.Flow.DstPort}).Verdict
		if v != r.Verdict {
			t.Fatalf("%+v: the reference says %d, the rules %d", p.Flow, v, r.Verdict)
		}
		a.flows[q] = p.Flow
		e := expectation{form: p.Form}
		switch allowed := v == abi.Allow; {
		case p.Bytes[0]>>4 == 6 && (p.Bytes[6] == 0 || p.Bytes[6] == 60): // the stack takes no extension headers
			if p.Opens && !allowed {
				e.may = []string{"prohibited"}
			}
		case !allowed && p.Opens:
			e.may = []string{"prohibited"} // at most so many a second
		case !allowed:
		case p.Flow.Protocol == flow.UDP:
			e.may = []string{"port unreachable"} // the same
		case p.Flow.Protocol == flow.ICMP:
			e.may, e.must = []string{"echo reply"}, true
		case p.Opens && q.dport == served:
			e.may, e.must = []string{"SYN-ACK"}, true
		case p.Opens:
			e.may, e.must = []string{"RST"}, true
		case flags&rst == 0:
			e.may, e.must = []string{"RST"}, q.dport != served // the cookie of somebody is told from none
		}
		if p.Flow.Src.IsLinkLocalUnicast() {
			e.must = false // nobody forwards an answer to another link (RFC 4291, section 2.5.6)
		}
		a.want[q] = e
	}
	return a
}

const rst = 4

// read reads what tells a packet from others: one that is sent to the image, or one
// that is from it.
func read(p []byte, answer bool) (q question, flags byte, ok bool) {
	var body []byte
	switch {
	case len(p) >= 20 && p[0] == 0x45:
		q.protocol, body = flow.Protocol(p[9]), p[20:]
		q.client = netip.AddrFrom4([4]byte(p[12:16]))
		if answer {
			q.client = netip.AddrFrom4([4]byte(p[16:20]))
		}
	case len(p) >= 40 && p[0]>>4 == 6:
		q.protocol, body = flow.Protocol(p[6]), p[40:]
		for (q.protocol == 0 || q.protocol == 60) && len(body) >= 8 {
			size := 8 + 8*int(body[1])
			if size > len(body) {
				return q, 0, false
			}
			q.protocol, body = flow.Protocol(body[0]), body[size:]
		}
		q.client = netip.AddrFrom16([16]byte(p[8:24]))
		if answer {
			q.client = netip.AddrFrom16([16]byte(p[24:40]))
		}
	default:
		return q, 0, false
	}
	if len(body) < 8 {
		return q, 0, false
	}
	switch q.protocol {
	case flow.TCP, flow.UDP:
		q.cport, q.dport = binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
		if answer {
			q.cport, q.dport = q.dport, q.cport
		}
		if q.protocol == flow.TCP && len(body) > 13 {
			flags = body[13]
		}
	case flow.ICMP, flow.ICMPv6:
		q.protocol, q.cport, flags = flow.ICMP, binary.BigEndian.Uint16(body[4:]), body[0]
	default:
		return q, 0, false
	}
	return q, flags, true
}

// A hearing is what comes back.
type hearing struct {
	w *wire.Wire

	mu       sync.Mutex
	answers  map[question]map[string]bool
	met      int // answers that say that everything was read
	arrivals chan struct{}
	kernel   tallies // what this machine has sent to the image itself: neighbour discovery, and what else there is
	err      error
}

func listen(w *wire.Wire) *hearing {
	h := &hearing{w: w, answers: map[question]map[string]bool{}, arrivals: make(chan struct{}, 1)}
	go func() {
		for {
			f, sent, err := w.Hear()
			h.mu.Lock()
			h.err = err
			h.hear(f, sent)
			h.mu.Unlock()
			if err != nil {
				return
			}
			select {
			case h.arrivals <- struct{}{}:
			default:
			}
		}
	}()
	return h
}

// hear takes a frame down.
func (h *hearing) hear(f []byte, sent bool) {
	if len(f) < 14 {
		return
	}
	p, kind := f[14:], binary.BigEndian.Uint16(f[12:])
	switch {
	case kind != 0x800 && kind != 0x86dd:
		if !sent && wire.IsAnswer(f) {
			h.met++
		}
		return
	case sent:
		if kind == 0x86dd && len(p) > 40 && p[6] == 58 && p[40] >= 133 && p[40] <= 136 {
			h.kernel.In++
		} else {
			h.kernel.Malformed++
		}
		return
	}
	q, flags, ok := read(p, true)
	if !ok {
		return
	}
	what, v6 := "", kind == 0x86dd
	switch {
	case q.protocol == flow.TCP && flags&0x12 == 0x12:
		what = "SYN-ACK"
	case q.protocol == flow.TCP && flags&rst != 0:
		what = "RST"
	case q.protocol == flow.TCP && flags == 0x10:
		what = "ACK"
	case q.protocol != flow.ICMP:
		what = fmt.Sprintf("flags %#x of %d", flags, q.protocol)
	case flags == 0 && !v6, flags == 129 && v6:
		what = "echo reply"
	case flags == 3 && !v6 && len(p) >= 28, flags == 1 && v6 && len(p) >= 48:
		at := map[bool]int{false: 20, true: 40}[v6]
		code := p[at+1]
		what = map[bool]map[byte]string{false: {13: "prohibited", 3: "port unreachable"}, true: {1: "prohibited", 4: "port unreachable"}}[v6][code]
		if q, _, ok = read(p[at+8:], false); !ok {
			return
		}
	case flags >= 133 && flags <= 143 && v6: // neighbours, and groups
		return
	}
	if h.answers[q] == nil {
		h.answers[q] = map[string]bool{}
	}
	h.answers[q][what] = true
}

// until waits until a condition of what was heard holds.
func (h *hearing) until(ok func() bool) bool {
	late := time.After(answerPatience)
	for {
		h.mu.Lock()
		good, err := ok(), h.err
		h.mu.Unlock()
		if good || err != nil {
			return good
		}
		select {
		case <-h.arrivals:
		case <-late:
			return false
		}
	}
}

// ask sends packets, no more at once than the link holds, and waits for what must come.
func (h *hearing) ask(t *testing.T, a *asked) {
	t.Helper()
	met := func() {
		h.mu.Lock()
		before := h.met
		h.mu.Unlock()
		if err := h.w.Ask(); err != nil {
			t.Fatal(err)
		}
		for i := 0; !h.until(func() bool { return h.met > before }); i++ {
			if i == tries {
				t.Fatalf("the image reads nothing any more: %v", h.err)
			}
		}
	}
	met() // what was sent before these rules were in force is heard
	h.mu.Lock()
	clear(h.answers)
	h.kernel = tallies{}
	h.mu.Unlock()
	for i, p := range a.list {
		if err := h.w.Send(p.Bytes); err != nil {
			t.Fatal(err)
		}
		if i%window == window-1 {
			met()
		}
	}
	met()
	for range tries { // a listener that is busy loses a SYN, and a client sends it again
		missing := map[question]bool{}
		if h.until(func() bool { return a.missing(h, missing) == 0 }) {
			return
		}
		for i := range a.list {
			if p := &a.list[i]; p.Flow.Src.IsValid() {
				if q, _, _ := read(p.Bytes, false); missing[q] {
					a.count(p)
					if err := h.w.Send(p.Bytes); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		met()
	}
}

// missing finds what must be answered, and is not yet.
func (a *asked) missing(h *hearing, list map[question]bool) int {
	clear(list)
	for q, e := range a.want {
		if e.must && h.answers[q] == nil {
			list[q] = true
		}
	}
	return len(list)
}

// count counts a packet that the rules are asked about.
func (a *asked) count(p *packets.Packet) flow.Result {
	r := a.rules.Decide(p.Flow)
	a.by[r.Rule.ID]++
	if r.Verdict == abi.Allow {
		a.counts.In++
	} else {
		a.counts.Denied++
	}
	return r
}

// again reports whether an answer may be one more to a SYN under another policy, which
// these rules would have to let in as well, or the one to a second SYN while the first
// is not forgotten (RFC 5961, section 4).
func (a *asked) again(q question, what string) bool {
	f, ok := a.earlier[q]
	return ok && f.Src.IsValid() && (what == "SYN-ACK" || what == "RST" || what == "ACK") && q.dport == served && a.rules.Decide(f).Verdict == abi.Allow
}

// check holds what came back, and what was counted, to what had to.
func (a *asked) check(t *testing.T, h *hearing, before, after tallies, sum map[string]int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for q, e := range a.want {
		got := h.answers[q]
		for what := range got {
			if (len(e.may) == 0 || e.may[0] != what) && !a.again(q, what) {
				t.Errorf("%s of %+v is answered with %q; it may be with %v", e.form, q, what, e.may)
			}
			sum[what]++
		}
		if e.must && len(got) == 0 {
			t.Errorf("%s of %+v is not answered with %v", e.form, q, e.may)
		}
	}
	for q, what := range h.answers {
		for what := range what {
			if _, ok := a.want[q]; !ok && !a.again(q, what) {
				t.Errorf("nobody asked what %+v was answered, with %q", q, what)
			}
		}
	}
	want := tallies{In: a.counts.In + h.kernel.In, Denied: a.counts.Denied, Malformed: a.counts.Malformed + h.kernel.Malformed}
	got := tallies{In: after.In - before.In, Denied: after.Denied - before.Denied, Malformed: after.Malformed - before.Malformed}
	// What the image sends again of openings that it answered under policies before is denied
	// as well, by no rule: the counts of rules, below, are exact.
	again := uint64(sum["SYN-ACK"])
	if got.In != want.In || got.Denied < want.Denied || got.Denied > want.Denied+again || got.Malformed != want.Malformed {
		t.Errorf("let in, denied and malformed are counted %d, %d and %d, and not %d, %d and %d", got.In, got.Denied, got.Malformed, want.In, want.Denied, want.Malformed)
	}
	sum["let in"] += int(got.In)
	sum["denied"] += int(got.Denied)
	sum["malformed"] += int(got.Malformed)
	for _, r := range after.Rules {
		if a.by[r.Rule] != r.Packets {
			t.Errorf("rule %s has decided about %d packets, and not about %d", r.Rule, r.Packets, a.by[r.Rule])
		}
	}
	if len(after.Rules) == 0 {
		t.Error("no rule has decided about anything")
	}
}
