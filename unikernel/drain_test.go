package unikernel

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// direct is a network of the image's own, as far as a drain can tell.
type direct struct{}

func (direct) Open(*launch.Params) error                         { return nil }
func (direct) Listen(int, launch.Listener) (net.Listener, error) { return nil, errors.ErrUnsupported }
func (direct) Connect(context.Context, string, uint16) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}
func (direct) Place(*launch.Params) pep.PacketPlace { return pep.PacketPlace{} }
func (direct) Packets(pep.PacketFilter)             {}

// Whoever is on the way to a listener that nobody shares is served for the grace of a
// drain, and told to go; a socket that was handed in is left to the successor at once.
func TestOwnListenersStayOpenForTheGrace(t *testing.T) {
	for name, own := range map[string]bool{"handed in": false, "own": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testLimits(), text("ok"))
			if own {
				r.life.img.Net = direct{}
			}
			r.run()
			open := r.dial()
			io.WriteString(open, getApp)
			if _, body, err := answer(open); err != nil || body != "ok" {
				t.Fatalf("before: %q, %v", body, err)
			}
			const grace = 2 * time.Second
			r.send(control.Drain{Grace: grace, Limit: 10 * time.Second}.Frame())
			state := func() (draining, ending bool) {
				r.life.server.mu.Lock()
				defer r.life.server.mu.Unlock()
				return r.life.server.draining, r.life.server.ending
			}
			eventually(t, "it drains", func() bool {
				draining, _ := state()
				return draining
			})
			c, err := net.Dial("tcp", r.addr)
			if !own {
				eventually(t, "the listener is closed", func() bool {
					c, err := net.Dial("tcp", r.addr)
					if err == nil {
						c.Close()
					}
					return err != nil
				})
				if _, ending := state(); ending {
					t.Error("it was closed after the grace")
				}
			} else if err != nil {
				t.Errorf("nobody is accepted: %v", err)
			} else {
				io.WriteString(c, getApp)
				if resp, body, err := answer(c); err != nil || body != "ok" || !resp.Close {
					t.Errorf("in the grace: %q, %v", body, err)
				}
			}
			for f := r.next(); f != control.KindDrained; f = r.next() {
			}
			if c, err := net.Dial("tcp", r.addr); err == nil {
				c.Close()
				t.Error("after the drain somebody is accepted")
			}
		})
	}
}
