package unikernel

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
)

// Main boots the image, serves until it is drained, and exits: 0 after a drain,
// 1 with a line on standard error after anything else.
func Main(img Image) {
	if err := boot(img); err != nil {
		fmt.Fprintln(os.Stderr, "lorica image:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// boot follows docs/architecture.md, "Boot of an image".
func boot(img Image) error {
	plan, err := program.ParsePlanID(img.Plan)
	if err != nil {
		return err
	}
	if err := img.whole(); err != nil {
		return err
	}
	channel, err := img.Platform.Control()
	if err != nil {
		return err
	}
	p, err := receive(channel)
	if err != nil {
		return err
	}
	window, err := img.Platform.Window(p)
	if err != nil {
		return err
	}
	bound(p)
	if err := control.WriteFrame(channel, control.Hello{Version: abi.Version, Plan: plan}.Frame()); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}

	if p.Dials != (img.Egress.Module != nil) {
		return errors.New("the tender and the image do not agree on whether it makes connections; rebuild the image")
	}
	l := newLife(img, plan, p, window, channel)
	if l.packets.filter, err = img.filterPackets(p); err != nil {
		return err
	}
	if err := l.first(p.First, p.MinRevision); err != nil {
		return err
	}
	// The network comes up when there is a program to judge what arrives.
	if err := img.Net.Open(p); err != nil {
		return err
	}
	for i, want := range p.Listeners {
		ln, err := img.Net.Listen(i, want)
		if err != nil {
			return err
		}
		l.server.ports = append(l.server.ports, port{ln, want.Port})
	}
	if err := settle(); err != nil {
		return err
	}
	if err := img.Platform.Seal(p); err != nil {
		return fmt.Errorf("the seal: %w", err)
	}

	if l.server.app, err = construct(img.App); err != nil {
		return fmt.Errorf("the application: %w", err)
	}
	// Nobody can reach what has no address yet.
	if n, ok := img.Net.(interface{ Addressed() error }); ok {
		if err := n.Addressed(); err != nil {
			return err
		}
	}
	return l.run()
}

// whole reports what an image lacks that none can do without.
func (img *Image) whole() error {
	switch {
	case img.Platform == nil:
		return errors.New("the image has no platform to run on")
	case img.Net == nil:
		return errors.New("the image has no network")
	case img.Audit.Module == nil:
		return errors.New("the image has nothing that records decisions")
	}
	return nil
}

func receive(channel io.Reader) (*launch.Params, error) {
	f, err := control.ReadFrame(channel, control.MaxFromTender)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	p, err := launch.Decode(f)
	if err != nil {
		return nil, err
	}
	if !abi.Compatible(p.Version) {
		return nil, fmt.Errorf("launch: the tender speaks version %d, this image %d; rebuild the image", p.Version, abi.Version)
	}
	return p, nil
}

// bound sets the limits of the Go runtime. Setting the processors by hand also
// stops the runtime from asking the kernel for them every second, which the seal
// would not survive.
func bound(p *launch.Params) {
	runtime.GOMAXPROCS(max(1, int(p.MaxProcs)))
	if p.MemoryLimit > 0 {
		// A large step between collections is cheap while the limit holds it in.
		debug.SetMemoryLimit(int64(min(p.MemoryLimit, math.MaxInt64)))
		debug.SetGCPercent(400)
	}
}

// settle makes the standard library do now what it would otherwise do once, on
// first use, with system calls that the seal kills: reading the time zone and
// the table of content types. Neither file exists where the image runs; what
// counts is that the answer is remembered.
func settle() error {
	_, _ = time.Now().Local().Zone()
	time.Local = time.UTC
	_ = mime.TypeByExtension(".html")
	_, err := io.ReadFull(rand.Reader, make([]byte, 16))
	return err
}

func construct(app App) (h http.Handler, err error) {
	defer func() {
		if v := recover(); v != nil {
			h, err = nil, fmt.Errorf("panic: %v", v)
		}
	}()
	if app == nil {
		return nil, errors.New("there is none")
	}
	if h, err = app(); err == nil && h == nil {
		err = errors.New("the constructor returned no handler")
	}
	return h, err
}

// A port is a listener and the number that the policy knows it by.
type port struct {
	net.Listener
	number uint16
}
