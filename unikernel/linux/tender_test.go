//go:build linux && amd64

package linux_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
)

const (
	planText = "6c6f726963616c6f726963616c6f726963616c6f726963616c6f726963616c6f"
	slotSize = 1 << 20
	slots    = 3
)

var manifests = []string{"module.yaml", "../../netstack/socket/module.yaml"}

// buildImage builds testdata/image, once for each test binary that asks.
func buildImage(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./testdata/image")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return out
}

// A tender is the least that an image needs: it launches, writes programs, and
// acknowledges records.
type tender struct {
	t       *testing.T
	cmd     *exec.Cmd
	stderr  bytes.Buffer
	channel *os.File
	window  []byte
	key     ed25519.PrivateKey
	socket  *os.File
	url     string
	exited  chan struct{}
	frames  chan any // what is neither Records nor Log

	mu      sync.Mutex
	records []audit.Record
	logs    []string
}

// An option changes what the image is launched with.
type option struct {
	seals  int
	params func(*launch.Params)
	policy policy
	socket *os.File // a predecessor's; nil: a new one
}

// A policy is what the tests vary in programs.
type policy struct {
	revision uint64
	workload string
	plan     string
	deny     bool // every connection
	limit    uint32
	extra    string // a section that no module takes
	omit     string // a section left out
}

func (p policy) sign(t *testing.T, key ed25519.PrivateKey) []byte {
	t.Helper()
	plan, err := program.ParsePlanID(p.plan)
	if err != nil {
		t.Fatal(err)
	}
	verdict := abi.Allow
	if p.deny {
		verdict = abi.Deny
	}
	network := flow.Section{Lists: []flow.List{{Level: "normal", Rule: abi.Rule{ID: abi.RuleNetwork},
		Rules: []flow.Rule{{Rule: abi.Rule{ID: "local"}, Verdict: verdict, Src: netip.MustParsePrefix("127.0.0.0/8"), FromHi: 65535, PortHi: 65535}}}}}
	filter := route.Section{Limits: route.Limits{MaxHeaderBytes: 16 << 10, MaxBodyBytes: 8 << 20, MaxPathBytes: 2048, MaxConnections: p.limit, MaxHeaders: 100,
		HeaderTimeout: 2 * time.Second, BodyTimeout: 2 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 10 * time.Second}}
	for _, path := range []string{"/hello", "/echo", "/garbage", "/clock", "/slow", "/panic", "/library", "/files/{rest...}", "/forbidden/{call}"} {
		filter.Routes = append(filter.Routes, route.Route{Name: path[1:], Method: "*", Pattern: path})
	}
	recorded := audit.Section{AllowedPerMillion: audit.Million}
	prog := program.Program{Plan: plan, Revision: p.revision, Tenant: "acme", Workload: p.workload, Levels: []string{"normal"}}
	for _, s := range []program.Section{{Name: flow.Name, Data: network.Encode()}, {Name: route.Name, Data: filter.Encode()},
		{Name: audit.Name, Data: recorded.Encode()}, {Name: audit.ChannelName, Data: (&audit.Channel{}).Encode()}, {Name: p.extra, Data: []byte{1}}} {
		if s.Name != p.omit && s.Name != "" {
			prog.Sections = append(prog.Sections, s)
		}
	}
	signed, err := program.Sign(&prog, key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func defaults() policy { return policy{revision: 1, workload: "test", plan: planText, limit: 256} }

// start launches the image; the caller awaits what it says.
func start(t *testing.T, image string, o option) *tender {
	t.Helper()
	d := &tender{t: t, exited: make(chan struct{}), frames: make(chan any, 64),
		key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}

	mem := d.memory(o.seals)
	defer mem.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(pair[0], true)
	d.channel = os.NewFile(uintptr(pair[0]), "control")
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	if d.socket = o.socket; d.socket == nil {
		d.socket = listen(t)
	}
	ln, err := net.FileListener(d.socket)
	if err != nil {
		t.Fatal(err)
	}
	d.url = "http://" + ln.Addr().String()
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	ln.Close()

	d.cmd = exec.Command(image)
	d.cmd.Env = []string{}
	d.cmd.ExtraFiles = []*os.File{theirs, mem, d.socket}
	d.cmd.Stderr = &d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.cmd.Wait(); close(d.exited) }()
	t.Cleanup(func() { d.cmd.Process.Kill(); <-d.exited; d.channel.Close() })

	signed := o.policy.sign(t, d.key)
	copy(d.window, signed)
	p := &launch.Params{Version: abi.Version, Instance: "test-1", Tenant: "acme", Workload: "test", Tier: "full",
		Trust: [32]byte(d.key.Public().(ed25519.PublicKey)), MaxProcs: 2, MemoryLimit: 64 << 20, Slots: slots, SlotSize: slotSize,
		First:     control.Prepare{Slot: 0, Length: uint32(len(signed))},
		Listeners: []launch.Listener{{Name: "api", Port: port}}, Seal: compose(t, d.cmd.Process.Pid, manifests...)}
	if o.params != nil {
		o.params(p)
	}
	d.send(p.Frame())
	go d.read()
	return d
}

// listen opens a socket as tenders do: whoever gets a duplicate shares it.
func listen(t *testing.T) *os.File {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (d *tender) memory(seals int) *os.File {
	fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, slots*slotSize); err != nil {
		d.t.Fatal(err)
	}
	if d.window, err = unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		d.t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { unix.Munmap(d.window) })
	return os.NewFile(uintptr(fd), "program")
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE

// launched starts an image with the default policy and waits until it is ready.
func launched(t *testing.T, image string) *tender {
	t.Helper()
	return succeed(t, image, nil)
}

// succeed is launched on the socket of a predecessor.
func succeed(t *testing.T, image string, socket *os.File) *tender {
	t.Helper()
	d := start(t, image, option{seals: allSeals, policy: defaults(), socket: socket})
	hello := await[control.Hello](d)
	if fmt.Sprintf("%x", hello.Plan) != planText || hello.Version != abi.Version {
		t.Fatalf("the image says %+v", hello)
	}
	await[ready](d)
	return d
}

// ready and drained stand for the frames without content.
type (
	ready   struct{}
	drained struct{}
)

func (d *tender) send(f control.Frame) {
	d.t.Helper()
	if err := control.WriteFrame(d.channel, f); err != nil {
		d.t.Errorf("writing frame %d: %v", f.Kind, err)
	}
}

func (d *tender) read() {
	defer close(d.frames)
	for {
		f, err := control.ReadFrame(d.channel, control.MaxFromImage)
		if err != nil {
			return
		}
		m, err := f.Decode()
		if err != nil {
			d.t.Errorf("the image sent %v", err)
			return
		}
		switch m := m.(type) {
		case control.Records:
			d.mu.Lock()
			d.records = append(d.records, m.Records...)
			d.mu.Unlock()
			control.WriteFrame(d.channel, control.Ack{Seq: m.Seq}.Frame())
		case control.Log:
			d.mu.Lock()
			d.logs = append(d.logs, m.Line)
			d.mu.Unlock()
		case nil:
			if f.Kind == control.KindReady {
				d.frames <- ready{}
			} else {
				d.frames <- drained{}
			}
		default:
			d.frames <- m
		}
	}
}

// await returns the next frame, which must be a T.
func await[T any](d *tender) T {
	d.t.Helper()
	select {
	case m, ok := <-d.frames:
		if v, is := m.(T); ok && is {
			return v
		}
		if !ok {
			<-d.exited
		}
		d.t.Fatalf("the image sent %+v (open: %v); stderr: %s", m, ok, d.stderr.String())
	case <-time.After(time.Minute):
		d.t.Fatalf("the image says nothing")
	}
	panic("unreachable")
}

// died waits for the end of the process and returns how it ended.
func (d *tender) died() syscall.WaitStatus {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(time.Minute):
		d.t.Fatal("the image lives on")
	}
	return d.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// prepare writes a program into a slot and returns the image's answer.
func (d *tender) prepare(txn uint64, slot uint8, signed []byte) control.Prepared {
	d.t.Helper()
	copy(d.window[int(slot)*slotSize:], signed)
	d.send(control.Prepare{Txn: txn, Slot: slot, Length: uint32(len(signed))}.Frame())
	return await[control.Prepared](d)
}

// client returns an HTTP client with connections of its own.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}
