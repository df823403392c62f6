//go:build linux && amd64

package linux_test

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
)

func get(t *testing.T, c *http.Client, url string) (int, http.Header, string) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(b)
}

func TestProcess(t *testing.T) {
	image := buildImage(t)
	t.Run("serves and records", func(t *testing.T) { serves(t, launched(t, image)) })
	t.Run("has what applications use of the standard library", func(t *testing.T) { library(t, launched(t, image)) })
	t.Run("survives memory pressure, new connections and swaps under the seal", func(t *testing.T) { pressure(t, launched(t, image)) })
	t.Run("refuses programs and stays", func(t *testing.T) { refuses(t, launched(t, image)) })
	t.Run("drains without losing a request", func(t *testing.T) { drains(t, launched(t, image)) })
	t.Run("is replaced without losing a request", func(t *testing.T) { replaced(t, image) })
	t.Run("closes connections that a new program denies", func(t *testing.T) { rejudges(t, launched(t, image)) })
	t.Run("ends with its channel", func(t *testing.T) {
		d := launched(t, image)
		d.channel.Close()
		if s := d.died(); s.ExitStatus() != 1 {
			t.Errorf("ended with %v", s)
		}
	})
	for _, call := range []string{"open", "dial", "exec", "kill", "map", "code", "shutdown"} {
		t.Run("dies of "+call, func(t *testing.T) {
			d := launched(t, image)
			client(t).Get(d.url + "/forbidden/" + call)
			if s := d.died(); s.Signal() != syscall.SIGSYS {
				t.Errorf("ended with signal %v, status %v", s.Signal(), s.ExitStatus())
			}
		})
	}
	boots(t, image)
}

func serves(t *testing.T, d *tender) {
	c := client(t)
	code, h, body := get(t, c, d.url+"/hello")
	id := h.Get("Lorica-Decision")
	if code != 200 || body != "hello\n" || len(id) != 32 {
		t.Fatalf("got %d %q, decision %q", code, body, id)
	}
	if code, h, body = get(t, c, d.url+"/unknown"); code != 404 || body != "denied\n"+h.Get("Lorica-Decision")+"\n" {
		t.Errorf("no route: got %d %q", code, body)
	}
	if h.Get("Cache-Control") != "no-store" {
		t.Error("a denial may be cached")
	}
	if code, _, body = get(t, c, d.url+"/panic"); code != 500 || !strings.HasPrefix(body, "error\n") {
		t.Errorf("panic: got %d %q", code, body)
	}
	if code, _, body = get(t, c, d.url+"/clock"); code != 200 || !strings.Contains(body, "UTC") {
		t.Errorf("clock: got %d %q", code, body)
	}
	d.send(control.Query())
	s := await[control.Stats](d)
	if s.Requests != 4 || s.Allowed != 3 || s.Denied != 1 || s.Connections != 1 || s.HeapBytes == 0 {
		t.Errorf("statistics are %+v", s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.records) != 4 {
		t.Fatalf("%d records", len(d.records))
	}
	if r := d.records[0]; r.ID != id || r.Verdict != abi.Allow || r.Route != "hello" || r.Revision != 1 || r.Source != "127.0.0.1" {
		t.Errorf("record is %+v", r)
	}
	if r := d.records[1]; r.Verdict != abi.Deny || r.Rule.ID != abi.RuleRoute {
		t.Errorf("record is %+v", r)
	}
}

func library(t *testing.T, d *tender) {
	c := client(t)
	for path, want := range map[string]string{"/files/": "<p>home\n", "/files/docs/ten.txt": "0123456789\n", "/files/none": "not found\n"} {
		if _, _, body := get(t, c, d.url+path); body != want {
			t.Errorf("%s: got %q", path, body)
		}
	}
	r, err := http.NewRequest("GET", d.url+"/files/docs/ten.txt", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Range", "bytes=0-1,4-5") // needs a random boundary
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 206 || !strings.Contains(string(b), "45") {
		t.Errorf("ranges: %d %q", resp.StatusCode, b)
	}
	var form bytes.Buffer
	m := multipart.NewWriter(&form)
	if part, err := m.CreateFormFile("f", "name"); err == nil {
		part.Write(make([]byte, 64<<10))
	}
	m.Close()
	resp, err = c.Post(d.url+"/library", m.FormDataContentType(), &form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !strings.Contains(string(b), "text/css") {
		t.Errorf("library: %d %q", resp.StatusCode, b)
	}
}

// load asks from eight clients, half of them with a new connection each time,
// until stop is called. Posts are never repeated by the client behind its back.
func load(t *testing.T, url string) (stop func()) {
	var wg sync.WaitGroup
	var done atomic.Int64
	end := make(chan struct{})
	kept := client(t)
	body := bytes.Repeat([]byte("x"), 1<<20)
	for i := range 8 {
		wg.Go(func() {
			c := kept
			if i%2 == 0 {
				c = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			}
			for {
				for path, body := range map[string][]byte{"/hello": nil, "/garbage": nil, "/echo": body} {
					if err := post(c, url+path, body); err != nil {
						t.Errorf("%s: %v", path, err)
						return
					}
					done.Add(1)
				}
				select {
				case <-end:
					return
				default:
				}
			}
		})
	}
	return func() {
		t.Helper()
		close(end)
		wg.Wait()
		t.Logf("%d requests", done.Load())
		if done.Load() < 8*3 { // a round of each
			t.Errorf("only %d requests", done.Load())
		}
	}
}

// post sends body and wants it back.
func post(c *http.Client, url string, body []byte) error {
	r, err := c.Post(url, "text/plain", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	n, err := io.Copy(io.Discard, r.Body)
	if err == nil && (r.StatusCode != 200 || body != nil && n != int64(len(body))) {
		err = fmt.Errorf("status %d, %d bytes", r.StatusCode, n)
	}
	return err
}

// pressure swaps programs under load.
func pressure(t *testing.T, d *tender) {
	stop := load(t, d.url)
	slot := uint8(1)
	for rev := uint64(2); rev < 12; rev++ {
		p := defaults()
		p.revision = rev
		if rev%3 == 0 {
			p.limit = 200 // other limits: another http.Server
		}
		if a := d.prepare(rev, slot, p.sign(t, d.key)); a.Err != "" || a.Txn != rev {
			t.Fatalf("prepared: %+v", a)
		}
		d.send(control.Txn{Txn: rev}.Frame(control.KindCommit))
		var committed, released bool
		for !committed || !released {
			switch m := await[any](d).(type) {
			case control.Committed:
				committed = m.Slot == slot && m.Revision == rev
			case control.Released:
				released = m.Slot == 1-slot
			default:
				t.Fatalf("got %+v", m)
			}
		}
		slot = 1 - slot
		time.Sleep(150 * time.Millisecond)
	}
	stop()
}

// replaced hands the socket to a second image under load and drains the first.
func replaced(t *testing.T, image string) {
	d := launched(t, image)
	stop := load(t, d.url)
	for range 2 {
		next := succeed(t, image, d.socket)
		d.send(control.Drain{Grace: 300 * time.Millisecond, Limit: 5 * time.Second}.Frame())
		await[drained](d)
		if s := d.died(); s.ExitStatus() != 0 {
			t.Errorf("ended with %v: %s", s, d.stderr.String())
		}
		d = next
	}
	stop()
}

func refuses(t *testing.T, d *tender) {
	good := defaults()
	good.revision = 2
	signed := good.sign(t, d.key)
	altered := bytes.Clone(signed)
	altered[100] ^= 1
	with := func(change func(*policy)) []byte {
		p := good
		change(&p)
		return p.sign(t, d.key)
	}
	for i, c := range []struct {
		name, want string
		slot       uint8
		signed     []byte
	}{
		{"altered", "signature", 1, altered},
		{"empty", "signature", 1, nil},
		{"same revision", "revision 1", 1, with(func(p *policy) { p.revision = 1 })},
		{"other workload", "acme/other", 1, with(func(p *policy) { p.workload = "other" })},
		{"other plan", "program is for plan:", 1, with(func(p *policy) { p.plan = strings.Repeat("0", 64) })},
		{"section without a module", `section "ratelimit" has no module`, 1, with(func(p *policy) { p.extra = "ratelimit" })},
		{"module without a section", `no section "filter"`, 1, with(func(p *policy) { p.omit = "filter" })},
		{"no limits", "bounds the server", 1, with(func(p *policy) { p.limit = 0 })},
		{"slot in use", "slot 0 is in use", 0, signed},
		{"no such slot", "3 slots", 7, nil},
	} {
		var a control.Prepared
		if c.slot < slots && c.slot != 0 {
			a = d.prepare(uint64(i), c.slot, c.signed)
		} else {
			d.send(control.Prepare{Txn: uint64(i), Slot: c.slot, Length: 100}.Frame())
			a = await[control.Prepared](d)
		}
		if !strings.Contains(a.Err, c.want) {
			t.Errorf("%s: answered %q", c.name, a.Err)
		}
	}
	if code, _, _ := get(t, client(t), d.url+"/hello"); code != 200 {
		t.Errorf("after refusals: %d", code)
	}
	if a := d.prepare(90, 1, signed); a.Err != "" {
		t.Fatalf("a good program: %q", a.Err)
	}
	if a := d.prepare(91, 2, signed); !strings.Contains(a.Err, "transaction 90") {
		t.Errorf("a second transaction: %q", a.Err)
	}
	d.send(control.Txn{Txn: 90}.Frame(control.KindAbort))
	if a := d.prepare(92, 1, signed); a.Err != "" {
		t.Errorf("after Abort: %q", a.Err)
	}
	d.send(control.Txn{Txn: 93}.Frame(control.KindCommit))
	if s := d.died(); s.ExitStatus() != 1 || !strings.Contains(d.stderr.String(), "Commit of 93") {
		t.Errorf("a Commit out of nowhere: %v, %s", s, d.stderr.String())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.logs) < 9 {
		t.Errorf("refusals are logged in %d lines: %q", len(d.logs), d.logs)
	}
}

func drains(t *testing.T, d *tender) {
	c := client(t)
	get(t, c, d.url+"/hello") // leaves an idle connection
	slow := make(chan string)
	go func() {
		r, err := client(t).Get(d.url + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		slow <- string(b)
	}()
	time.Sleep(100 * time.Millisecond)
	d.send(control.Drain{Grace: 300 * time.Millisecond, Limit: 5 * time.Second}.Frame())
	time.Sleep(100 * time.Millisecond)
	r, err := c.Get(d.url + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if !r.Close {
		t.Error("a response in the grace period does not say Connection: close")
	}
	if got := <-slow; got != "slow\n" {
		t.Errorf("the request under way got %q", got)
	}
	await[drained](d)
	if s := d.died(); s.ExitStatus() != 0 {
		t.Errorf("ended with %v: %s", s, d.stderr.String())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.records) != 3 {
		t.Errorf("%d records", len(d.records))
	}
}

func rejudges(t *testing.T, d *tender) {
	c := client(t)
	get(t, c, d.url+"/hello")
	p := defaults()
	p.revision, p.deny = 2, true
	if a := d.prepare(1, 1, p.sign(t, d.key)); a.Err != "" {
		t.Fatal(a.Err)
	}
	d.send(control.Txn{Txn: 1}.Frame(control.KindCommit))
	await[control.Committed](d)
	await[control.Released](d)
	for range 2 { // the idle connection is closed, and so is a new one
		if r, err := c.Get(d.url + "/hello"); err == nil {
			r.Body.Close()
			t.Errorf("got %d", r.StatusCode)
		}
	}
	d.send(control.Query())
	s := await[control.Stats](d)
	if s.Connections != 0 || s.Refused < 2 || s.Requests != 1 {
		t.Errorf("statistics are %+v", s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.records) < 3 || d.records[1].Verdict != abi.Deny || d.records[1].Stage != abi.StageFirewall || d.records[1].Rule.ID != "local" {
		t.Errorf("records are %+v", d.records)
	}
}

// boots launches images that must not come up.
func boots(t *testing.T, image string) {
	old := defaults()
	for _, c := range []struct {
		name, want string
		option
	}{
		{"memory that can be written", "seals", option{seals: allSeals &^ 0x10, policy: defaults()}},
		{"memory that can shrink", "seals", option{seals: allSeals &^ 0x2, policy: defaults()}},
		{"less memory than promised", "promised", option{seals: allSeals, policy: defaults(), params: func(p *launch.Params) { p.SlotSize *= 2 }}},
		{"another trust root", "signature", option{seals: allSeals, policy: defaults(), params: func(p *launch.Params) { p.Trust[0] ^= 1 }}},
		{"a revision below the mark", "revision 1", option{seals: allSeals, policy: old, params: func(p *launch.Params) { p.MinRevision = 2 }}},
		{"a tender of another age", "version", option{seals: allSeals, policy: defaults(), params: func(p *launch.Params) { p.Version = 9 }}},
		{"no filter", "filter", option{seals: allSeals, policy: defaults(), params: func(p *launch.Params) { p.Seal = nil }}},
		{"a filter that the kernel refuses", "seal", option{seals: allSeals, policy: defaults(), params: func(p *launch.Params) { p.Seal = p.Seal[:1] }}},
		{"a listener that is not there", "listener", option{seals: allSeals, policy: defaults(), params: func(p *launch.Params) {
			p.Listeners = append(p.Listeners, launch.Listener{Name: "ghost", Port: 1})
		}}},
	} {
		t.Run("does not boot with "+c.name, func(t *testing.T) {
			d := start(t, image, c.option)
			if s := d.died(); s.ExitStatus() != 1 || !strings.Contains(d.stderr.String(), c.want) {
				t.Errorf("ended with %v: %q", s, d.stderr.String())
			}
		})
	}
}
