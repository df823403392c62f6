package e2e

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/abi/transport/certtest"
)

const sunkWorkload = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: sunk, tenant: acme, labels: {app: sunk}}
spec:
  app: {static: {dir: ./public}}
  listen: [{name: web, port: PORT}]
  resources: {memory: 64Mi}
  confinement: {minimum: no-userns}
`

const sunkPolicy = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: sunk, tenant: acme}
spec:
  selector: {matchLabels: {app: sunk}}
  default: {network: Allow, authorization: Allow}
  routes: [{name: pages, match: {method: GET, path: "/{file...}"}}]
  secrets: {ca: {file: ./ca.pem}, certificate: {file: ./client.pem}, key: {file: ./client.key}}
  audit:
    sinks:
      channel: true
      syslog: {server: "127.0.0.1:LOGS", trust: secret/ca, certificate: secret/certificate, key: secret/key, onLoss: Deny, queue: {records: 40}}
`

// A syslog server of RFC 5425 that keeps what it is sent.
type syslogServer struct {
	t    *testing.T
	conf *tls.Config
	addr string

	mu       sync.Mutex
	ln       net.Listener
	conns    []net.Conn
	messages []string
}

func (s *syslogServer) start() {
	s.t.Helper()
	ln, err := tls.Listen("tcp", s.addr, s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.ln, s.addr = ln, ln.Addr().String()
	s.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			go s.read(c)
		}
	}()
}

func (s *syslogServer) read(c net.Conn) {
	defer c.Close()
	for in := bufio.NewReader(c); ; {
		length, err := in.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
		if err != nil || n > 64<<10 {
			s.t.Errorf("a frame of length %q", length)
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(in, b); err != nil {
			return
		}
		s.mu.Lock()
		s.messages = append(s.messages, string(b))
		s.mu.Unlock()
	}
}

// stop takes the server away, as a crash would.
func (s *syslogServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ln.Close()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

var syslogForm = regexp.MustCompile(`^<1(?:08|10)>1 [0-9T:.-]+Z sunk lorica ([0-9a-f]{32}) decision \[meta sequenceId="([0-9]+)"\]\[lorica@32473 tenant="acme" workload="sunk" seq="([0-9]+)"(?: lost="([0-9]+)")? id="([0-9a-f]{32})" `)

type arrived struct {
	life, id  string
	seq, lost uint64
}

// got returns what came, in order, each once.
func (s *syslogServer) got() (list []arrived, again int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, m := range s.messages {
		f := syslogForm.FindStringSubmatch(m)
		if f == nil {
			s.t.Fatalf("not such a message: %q", m)
		}
		a := arrived{life: f[1], id: f[5]}
		a.seq, _ = strconv.ParseUint(f[3], 10, 64)
		a.lost, _ = strconv.ParseUint(f[4], 10, 64)
		if key := a.life + f[3]; !seen[key] {
			seen[key] = true
			list = append(list, a)
		} else {
			again++
		}
	}
	return list, again
}

func (s *syslogServer) has(id string) bool {
	list, _ := s.got()
	return slices.ContainsFunc(list, func(a arrived) bool { return a.id == id })
}

// sunk starts a workload whose records go to a syslog server.
func sunk(t *testing.T, u *user, policy string) (s *syslogServer, x *upping, addr, dir string) {
	t.Helper()
	ca := certtest.New(t, "logs")
	client := ca.Client(t, "image", nil)
	s = &syslogServer{t: t, addr: "127.0.0.1:" + freePort(t), conf: &tls.Config{Certificates: []tls.Certificate{ca.Server(t, nil).TLS},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool()}}
	s.start()
	t.Cleanup(s.stop)
	_, logs, _ := net.SplitHostPort(s.addr)
	port := freePort(t)
	fill := strings.NewReplacer("PORT", port, "LOGS", logs)
	dir = u.project(map[string]string{"policy.yaml": fill.Replace(policy), "workload.yaml": fill.Replace(sunkWorkload), "public/index.html": "hello\n",
		"ca.pem": string(ca.PEM), "client.pem": string(client.Chain), "client.key": string(client.Key)})
	x, _ = u.up(dir)
	return s, x, "127.0.0.1:" + port, dir
}

// Every decision reaches the syslog server and the tender; while the server is away, what
// cannot be recorded there is denied, and nothing is lost unnoticed when it is back, nor
// when another image takes over.
func TestRecordsGoToASyslogServer(t *testing.T) {
	u := newUser(t)
	s, x, addr, dir := sunk(t, u, sunkPolicy)
	first := get(t, addr, "/", "")
	if first.status != 200 {
		t.Fatalf("%d %s", first.status, first.body)
	}
	eventually(t, "the record arrives", func() bool { return s.has(first.decision) })
	if d := x.find(first.decision); d.Decision != "Allow" {
		t.Errorf("%+v", d)
	}
	if plan := u.run("plan", "-f", dir); !strings.Contains(plan, "allow 127.0.0.1 port") || !strings.Contains(plan, "by audit:syslog (policy.yaml:12)") || !strings.Contains(plan, "pep/audit/syslog") {
		t.Errorf("plan does not say where records go:\n%s", plan)
	}

	s.stop()
	var denied answer
	allowed := 1
	for range 60 {
		a := get(t, addr, "/", "")
		if a.status != 200 {
			denied = a
			break
		}
		allowed++
	}
	if denied.status != 503 || allowed > 42 {
		t.Fatalf("without the server %d requests were allowed, then %d", allowed, denied.status)
	}
	if d := x.find(denied.decision); d.Decision != "Deny" || d.Stage != "audit" || d.Rule != "default:audit" {
		t.Errorf("%+v", d)
	}
	if out := u.run("inspect", "sunk"); !strings.Contains(out, "syslog: ") || !strings.Contains(out, "40 wait") || !strings.Contains(out, "1 lost; not connected") {
		t.Errorf("inspect says nothing of what waits:\n%s", out)
	}
	s.start()
	var back answer
	eventually(t, "requests are allowed again", func() bool { back = get(t, addr, "/", ""); return back.status == 200 })
	eventually(t, "its record arrives", func() bool { return s.has(back.decision) })
	list, again := s.got()
	t.Logf("%d records arrived, %d of them again", len(list), again)
	missing := uint64(0)
	for i, a := range list {
		if i > 0 {
			if a.seq <= list[i-1].seq {
				t.Errorf("number %d after %d", a.seq, list[i-1].seq)
			}
			missing += a.seq - list[i-1].seq - 1
		}
	}
	if last := list[len(list)-1]; missing == 0 || last.lost != missing {
		t.Errorf("%d numbers are missing, and the last record says that %d are lost", missing, last.lost)
	}

	// Another image takes over while requests go on: what the first has decided is delivered.
	stop, asked := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for c := (&client{addr: addr}); ; n++ {
			select {
			case <-stop:
				c.close()
				asked <- n
				return
			default:
			}
			if a, err := c.do("GET", "/", "", ""); err != nil || a.status != 200 {
				t.Errorf("request %d: %d, %v", n, a.status, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	time.Sleep(300 * time.Millisecond)
	write(t, filepath.Join(dir, "public", "index.html"), "hello again\n")
	if e := x.wait("applied"); e.Change != "image" {
		t.Errorf("%+v", e)
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	if n := <-asked; n == 0 {
		t.Error("nothing was asked meanwhile")
	}
	last := get(t, addr, "/", "")
	eventually(t, "the last record arrives", func() bool { return s.has(last.decision) })
	list, _ = s.got()
	lives, came := map[string]bool{}, map[string]bool{}
	for _, a := range list {
		lives[a.life], came[a.id] = true, true
	}
	if len(lives) != 2 {
		t.Errorf("records of %d lives", len(lives))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range x.decisions {
		if !came[d.ID] && d.Rule != "default:audit" {
			t.Errorf("decision %d (%s) is with the tender and not with the server", d.Seq, d.ID)
		}
	}
}

// Without the channel the commands that read records say where to ask.
func TestRecordsThatAreNotKeptHere(t *testing.T) {
	u := newUser(t)
	s, _, addr, dir := sunk(t, u, strings.Replace(strings.Replace(sunkPolicy, "      channel: true\n", "", 1), "onLoss: Deny", "onLoss: Count", 1))
	a := get(t, addr, "/", "")
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	eventually(t, "the record arrives", func() bool { return s.has(a.decision) })
	for _, args := range [][]string{{"logs", "--decisions"}, {"why", "-f", dir, "--live", a.decision}, {"verify", "-f", dir}, {"dryrun", "report", "sunk"}, {"learn", "-f", dir, "--from", "sunk"}} {
		out, err := u.command(args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "keeps no decisions here: spec.audit.sinks of its policy sunk sends them to syslog") {
			t.Errorf("lorica %s: %v, %s", strings.Join(args, " "), err, out)
		}
	}
	// Requests go on without the server.
	s.stop()
	for i := range 60 {
		if b := get(t, addr, "/", ""); b.status != 200 {
			t.Fatalf("request %d: %d", i, b.status)
		}
	}
	s.start()
	var b answer
	eventually(t, "a record says what is lost", func() bool {
		b = get(t, addr, "/", "")
		time.Sleep(100 * time.Millisecond)
		list, _ := s.got()
		i := slices.IndexFunc(list, func(x arrived) bool { return x.id == b.decision })
		return i >= 0 && list[i].lost >= 20
	})
	if out := u.run("logs", "sunk"); !strings.Contains(out, "audit: syslog: 127.0.0.1 port") {
		t.Errorf("the log does not say that the server was away:\n%s", out)
	}
}

// An OpenTelemetry collector gets the records as well, with the token that is a secret, and
// whoever is not who the policy trusts gets neither.
func TestRecordsGoToACollector(t *testing.T) {
	u := newUser(t)
	ca, other := certtest.New(t, "logs"), certtest.New(t, "others")
	var mu sync.Mutex
	got, impostor := "", 0
	serve := func(by *certtest.Authority, each func(r *http.Request, body string)) string {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{by.Server(t, nil).TLS}})
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{ErrorLog: quiet(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			each(r, string(b))
			w.Header().Set("Content-Type", "application/x-protobuf")
		})}
		go s.Serve(ln)
		t.Cleanup(func() { s.Close() })
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		return port
	}
	good := serve(ca, func(r *http.Request, body string) {
		if r.Method != "POST" || r.URL.Path != "/v1/logs" || r.Header.Get("Authorization") != "Bearer s3cret" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		got += body
	})
	bad := serve(other, func(*http.Request, string) { impostor++ })
	port := freePort(t)
	policy := strings.Replace(sunkPolicy, sunkPolicy[strings.Index(sunkPolicy, "      syslog:"):], "      otlp: {url: \"https://127.0.0.1:LOGS\", trust: secret/ca, token: secret/token, onLoss: Count}\n", 1)
	policy = strings.Replace(policy, "certificate: {file: ./client.pem}, key: {file: ./client.key}", "token: {file: ./token.txt}", 1)
	fill := strings.NewReplacer("PORT", port, "LOGS", good)
	dir := u.project(map[string]string{"policy.yaml": fill.Replace(policy), "workload.yaml": fill.Replace(sunkWorkload), "public/index.html": "hello\n",
		"ca.pem": string(ca.PEM), "token.txt": "s3cret\n"})
	x, _ := u.up(dir)
	arrived := func(id string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(got, id)
		}
	}
	a := get(t, "127.0.0.1:"+port, "/", "")
	eventually(t, "the record arrives", arrived(a.decision))

	// Another collector is another program, not another image.
	edit(t, filepath.Join(dir, "policy.yaml"), good, bad)
	if e := x.wait("applied"); e.Change != "program" {
		t.Errorf("%+v", e)
	}
	b := get(t, "127.0.0.1:"+port, "/", "")
	if b.status != 200 {
		t.Errorf("%d", b.status)
	}
	eventually(t, "the log says why it goes nowhere", func() bool { return strings.Contains(u.run("logs", "sunk"), "failed to verify certificate") })
	edit(t, filepath.Join(dir, "policy.yaml"), bad, good)
	x.wait("applied")
	eventually(t, "what waited arrives", arrived(b.decision))
	mu.Lock()
	defer mu.Unlock()
	if impostor > 0 {
		t.Errorf("whoever is not trusted got %d requests", impostor)
	}
	if strings.Contains(u.run("logs", "sunk"), "s3cret") {
		t.Error("the log has the token")
	}
}
