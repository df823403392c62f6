package unikernel

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/unikernel/http1"
)

// newID returns the random name of a decision, 128 bits in hexadecimal. It is no
// secret: the runtime's generator, which clients cannot predict, is enough for it.
func newID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	var text [32]byte
	hex.Encode(text[:], b[:])
	return string(text[:])
}

// record asks the auditor for the record of d. An auditor that panics leaves no
// evidence, so that the caller must not go on.
func record(a pep.AuditState, x *pep.Exchange, d pep.Decision) (r audit.Record, keep bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("audit: panic: %v", v)
		}
	}()
	r, keep = a.Record(x, d)
	return r, keep, nil
}

// observe tells the observers of g about d, whose record is made and which stands for n
// alike, and posts what they have to say.
func (s *server) observe(g *generation, x *pep.Exchange, d pep.Decision, n uint64) error {
	for _, r := range g.raise {
		if err := s.raise(g, r, x, d, n); err != nil {
			return err
		}
	}
	for _, o := range g.watch {
		if err := s.told(g, o, x, d, false); err != nil {
			return err
		}
	}
	if d.Would != nil {
		d = *d.Would
	}
	for _, o := range g.tried {
		if err := s.told(g, o, x, d, true); err != nil {
			return err
		}
	}
	return nil
}

// alert makes a record of its own of what follows from the decision about x.
func (s *server) alert(g *generation, x *pep.Exchange, alert pep.Decision) error {
	_, err := g.file(&pep.Exchange{ID: newID(), Flow: x.Flow, Now: x.Now}, alert, false)
	return err
}

// raise asks one Raiser, and tells the tender of the triggers that fire, which puts their
// level in force. One that panics has missed a decision, so that the caller must not go on.
func (s *server) raise(g *generation, by pep.Raiser, x *pep.Exchange, d pep.Decision, n uint64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("raiser: panic: %v", v)
		}
	}()
	for _, f := range by.Raise(x, d, n) {
		s.out.send(control.Fired{At: time.Now().UnixNano(), Program: g.digest, Trigger: f.Trigger}.Frame())
		if err := s.alert(g, x, f.Alert); err != nil {
			return err
		}
	}
	return nil
}

// told tells one observer. What one says that is tried is what it would have said.
func (s *server) told(g *generation, o pep.Observer, x *pep.Exchange, d pep.Decision, tried bool) error {
	alert, ok, err := observed(o, x, d)
	if err != nil || !ok {
		return err
	}
	if would := alert; tried {
		alert = pep.Decision{Verdict: abi.Allow, Stage: alert.Stage, Rule: abi.Rule{ID: abi.RuleDryRun, Line: alert.Rule.Line}, Would: &would}
	}
	return s.alert(g, x, alert)
}

// observed asks one observer. One that panics has missed a decision, so that the
// caller must not go on.
func observed(o pep.Observer, x *pep.Exchange, d pep.Decision) (alert pep.Decision, ok bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("observer: panic: %v", v)
		}
	}()
	alert, ok = o.Observe(x, d)
	return alert, ok, nil
}

// serveHTTP1 serves a request of HTTP/1.
func (s *server) serveHTTP1(c *conn, w *http1.Response, r *http.Request) {
	s.requests.Add(1)
	if w.Note == nil {
		c.clean(r)
	}
	s.serve(c, w, r, w.Arrived, true)
}

// serveHTTP2 serves a request of HTTP/2, when there is room for it.
func (s *server) serveHTTP2(c *conn, w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	memory, room := c.h2.begin(r)
	defer c.h2.finish(memory)
	// From here on the request is a copy: what guards replace in it, its body
	// above all, must not hide from net/http what it still has to read.
	r, original := r.WithContext(appContext{r.Context()}), r
	c.clean(r)
	now := time.Now()
	if r.Body != nil && r.Body != http.NoBody {
		http.NewResponseController(w).SetReadDeadline(now.Add(c.front.limits.BodyTimeout))
		r.Body = &body{r.Body, original}
	}
	s.serve(c, w, r, now, room)
}

// clean takes out of a request what only the image may say, and adds what it
// knows of the connection. Trailers were announced, or are not kept.
func (c *conn) clean(r *http.Request) {
	strip(r.Header)
	stripTrailer(r.Trailer)
	if sec := c.secure.Load(); sec != nil {
		r.TLS = sec.State
	}
}

// serve is the chain: guards, record, application.
func (s *server) serve(c *conn, w http.ResponseWriter, r *http.Request, now time.Time, room bool) {
	x := &pep.Exchange{ID: newID(), Request: r, Header: w.Header(), Flow: c.flow, Now: now, Peer: c.peer()}
	out := &response{to: w, front: c.front, id: x.ID}

	d, serial, err := s.decide(c, w, x, room)
	if err != nil { // no evidence, no answer
		s.denied.Add(1)
		if !errors.Is(err, errRefused) {
			s.out.log(err.Error())
		}
		panic(http.ErrAbortHandler)
	}
	if d.Verdict != abi.Allow {
		s.denied.Add(1)
		if !room { // an answer would hold memory until the client takes it
			panic(http.ErrAbortHandler)
		}
		out.answer(d.Status, "denied")
		return
	}
	s.allowed.Add(1)
	out.last = x.Header.Get("Connection") == "close"
	if w, ok := w.(*http1.Response); ok && upgrades(x) {
		s.call(&upgradable{response: out, to: w, conn: c, expires: expiry(x), serial: serial}, out, x)
		return
	}
	s.call(out, out, x)
}

// errRefused reports a connection that the gates admitted once and refuse now.
var errRefused = errors.New("the connection is refused")

// decide judges x under one generation, gates included, and lets go of it once
// the record is written: how long the application then takes must not hold up a
// change of policy. It returns the serial of the one that judged. Without room for it,
// a request is denied unread.
func (s *server) decide(c *conn, w http.ResponseWriter, x *pep.Exchange, room bool) (d pep.Decision, serial uint64, err error) {
	g := s.pin()
	defer g.unpin()
	if ok, err := s.remains(g, c, x.Now); !ok {
		return d, 0, errors.Join(errRefused, err)
	}
	d = pep.Decision{Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleRequest}, Status: http.StatusServiceUnavailable,
		Reason: "the requests that are served fill their memory"}
	if room {
		d = g.judge(c, w, x)
	}
	judged := d // what observers are told: nobody is to blame for a collector that is away
	if d, err = g.file(x, d, true); err == nil {
		err = s.observe(g, x, judged, 1)
	}
	return d, g.serial, err
}

// A note is what some generation found out about a request.
type note struct {
	serial uint64
	judged *pep.Judged
}

// judge asks the guards about x; where they have seen the same head on the same
// connection twice before, only those that may say something else now.
func (g *generation) judge(c *conn, to http.ResponseWriter, x *pep.Exchange) pep.Decision {
	w, ok := to.(*http1.Response)
	if !ok || !w.Again {
		return g.guards.Judge(x)
	}
	if n, ok := w.Note.(note); ok {
		if n.serial == g.serial {
			if d, ok := g.guards.Again(x, n.judged); ok {
				return d
			}
		}
		x.Request = w.Anew()
		c.clean(x.Request)
	}
	d, judged := g.guards.Learn(x)
	if judged != nil {
		w.Keep(x.Request, note{g.serial, judged})
	}
	return d
}

// unreadable records a request that ended before it could be judged, and returns
// the name of the record. An error means that there is no evidence of it.
func (s *server) unreadable(c *conn, status int, reason string) (id string, err error) {
	s.requests.Add(1)
	s.denied.Add(1)
	g := s.pin()
	defer g.unpin()
	d := pep.Decision{Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleRequest}, Status: status, Reason: reason}
	if c.starved.Load() { // not the client's fault
		d.Status = http.StatusServiceUnavailable
	}
	x := &pep.Exchange{ID: newID(), Flow: c.flow, Now: time.Now()}
	_, err = g.file(x, d, false)
	if err == nil {
		err = s.observe(g, x, d, 1)
	}
	if err != nil {
		s.out.log(err.Error())
	}
	return x.ID, err
}

// call hands the request to the application, which answers on w, a view of out. A
// panic of it is a 500.
func (s *server) call(w http.ResponseWriter, out *response, x *pep.Exchange) {
	defer func() {
		v := recover()
		switch {
		case v == nil:
			out.finish()
			return
		case v == http.ErrAbortHandler:
		default:
			s.out.log(fmt.Sprintf("request %s: the application panicked: %v", x.ID, v))
			if !out.wrote {
				out.fail()
				return
			}
		}
		panic(http.ErrAbortHandler)
	}()
	r := x.Request
	if x.Principal != "" {
		r.Header.Set(pep.HeaderPrincipal, x.Principal)
	}
	if len(x.Groups) > 0 {
		r.Header.Set(pep.HeaderGroups, strings.Join(x.Groups, ","))
	}
	s.app.ServeHTTP(w, r)
}

// strip removes what only the image may say. Names arrive in canonical form; the
// comparison does not rely on it.
func strip(h http.Header) {
	for k := range h {
		if len(k) >= 7 && strings.EqualFold(k[:6], "lorica") && (k[6] == '-' || route.OddName(k[6:7])) {
			delete(h, k)
		}
	}
}

// stripTrailer removes also what nobody may say behind a body (RFC 9110, section
// 6.5.1): how long the message is, where it goes, and who sends it. The guards have
// judged without it.
func stripTrailer(h http.Header) {
	strip(h)
	for k := range h {
		switch route.PlainName(k) {
		case "transfer-encoding", "content-length", "trailer", "host", "authorization", "proxy-authorization", "cookie":
			delete(h, k)
		}
	}
}

// appContext hides the server and its connection from the application: what is
// behind them escapes the limits.
type appContext struct{ context.Context }

func (c appContext) Value(key any) any {
	if key == http.ServerContextKey || key == (connKey{}) {
		return nil
	}
	return c.Context.Value(key)
}

// A body of HTTP/2 strips the trailers when all of it has arrived.
type body struct {
	io.ReadCloser
	original *http.Request // gets the trailers
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		stripTrailer(b.original.Trailer)
	}
	return n, err
}
