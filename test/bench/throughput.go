package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lorica.dev/lorica/run/keys"
	"lorica.dev/lorica/test/freeport"
)

// bare builds and starts the application under net/http alone.
func (b *bench) bare() (*target, func(), error) {
	exe := filepath.Join(b.dir, "bare")
	build := exec.Command("go", "build", "-C", filepath.Join(b.root, "test", "bench", "testdata", "app"), "-trimpath", "-o", exe, "./bare")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, out)
	}
	return b.serve("net/http", exe, func(port int) []string { return []string{"-addr", fmt.Sprintf("127.0.0.1:%d", port)} })
}

// serve starts a server that takes its port on the command line.
func (b *bench) serve(name, exe string, args func(port int) []string) (*target, func(), error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, nil, err
	}
	s, err := start(b.dir, exe, args(port)...)
	if err != nil {
		return nil, nil, err
	}
	if err := answers(port); err != nil {
		s.stop()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return &target{name: name, url: fmt.Sprintf("http://127.0.0.1:%d/", port), pids: s.pids}, s.stop, nil
}

// sealed brings an image up.
func (b *bench) sealed(name string, policy func(port int) string) (*target, func(), error) {
	return b.sealedAs(name, b.app(), policy)
}

func (b *bench) sealedAs(name, app string, policy func(port int) string) (*target, func(), error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, nil, err
	}
	dir, err := b.project(name, workload(name, app, port), policy(port))
	if err != nil {
		return nil, nil, err
	}
	x, err := b.up(dir)
	if err != nil {
		return nil, nil, err
	}
	pid := x.ready.Status.PID
	return &target{name: name, url: fmt.Sprintf("http://127.0.0.1:%d/", port), pids: func() []int { return []int{pid} }}, x.stop, nil
}

func (b *bench) cohttp() (*target, func(), error) {
	dir := filepath.Join(b.dir, "cohttp")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	source, err := os.ReadFile(filepath.Join(b.root, "test", "bench", "testdata", "cohttp", "server.ml"))
	if err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "server.ml"), source, 0o644); err != nil {
		return nil, nil, err
	}
	build := exec.Command("ocamlfind", "ocamlopt", "-O3", "-unsafe", "-inline", "200", "-thread", "-linkpkg",
		"-package", "threads.posix,cohttp-lwt-unix", "server.ml", "-o", "server")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, out)
	}
	return b.serve("cohttp", filepath.Join(dir, "server"), func(port int) []string { return []string{fmt.Sprint(port)} })
}

// page is what every server answers: one kilobyte.
func page() string { return strings.Repeat("0123456789abcdef", 64) }

func (b *bench) caddy(extra string) (*target, func(), error) {
	return b.caddyWith(fmt.Sprintf("%s\trespond %q 200", extra, page()))
}

func (b *bench) caddyWith(site string) (*target, func(), error) {
	return b.serve("caddy", "/usr/bin/caddy", func(port int) []string {
		file := filepath.Join(b.dir, fmt.Sprintf("Caddyfile-%d", port))
		text := fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n}\nhttp://127.0.0.1:%d {\n%s\n}\n", port, site)
		_ = os.WriteFile(file, []byte(text), 0o644)
		return []string{"run", "--config", file, "--adapter", "caddyfile"}
	})
}

// static brings an image of the page as a file up.
func (b *bench) static() (*target, func(), error) {
	dir := filepath.Join(b.dir, "www")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "page.txt"), []byte(page()), 0o644); err != nil {
		return nil, nil, err
	}
	t, stop, err := b.sealedAs("static", "static: {dir: "+dir+"}", func(int) string { return plainPolicy })
	if err == nil {
		t.url += "page.txt"
	}
	return t, stop, err
}

// caddyFiles has Caddy serve the same file.
func (b *bench) caddyFiles() (*target, func(), error) {
	t, stop, err := b.caddyWith("root * " + filepath.Join(b.dir, "www") + "\n\tfile_server")
	if err == nil {
		t.name, t.url = "caddy-files", t.url+"page.txt"
	}
	return t, stop, err
}

func (b *bench) nginx() (*target, func(), error) {
	return b.serve("nginx", "/usr/sbin/nginx", func(port int) []string {
		file := filepath.Join(b.dir, fmt.Sprintf("nginx-%d.conf", port))
		text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s.pid; error_log /dev/null;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; server { listen 127.0.0.1:%[2]d; location / { default_type text/plain; return 200 %[3]q; } } }
`, file, port, page())
		_ = os.WriteFile(file, []byte(text), 0o644)
		return []string{"-c", file, "-p", b.dir}
	})
}

// throughput measures what the seal costs, and how plain images stand beside
// other servers.
func (b *bench) throughput() error {
	bare, stop, err := b.bare()
	if err != nil {
		return err
	}
	defer stop()
	plain, stop, err := b.sealed("plain", func(int) string { return plainPolicy })
	if err != nil {
		return err
	}
	defer stop()
	targets := []*target{bare, plain}
	for _, other := range []struct {
		name  string
		start func() (*target, func(), error)
	}{{"cohttp", b.cohttp}, {"caddy", func() (*target, func(), error) { return b.caddy("") }}, {"nginx", b.nginx}} {
		t, stop, err := other.start()
		if err != nil {
			b.cannot("plain against "+other.name, err)
			continue
		}
		defer stop()
		targets = append(targets, t)
	}
	static, stop, err := b.static()
	if err != nil {
		return err
	}
	defer stop()
	targets = append(targets, static)
	if files, stop, err := b.caddyFiles(); err != nil {
		b.cannot("static files against caddy", err)
	} else {
		defer stop()
		targets = append(targets, files)
	}
	list, err := rounds(b.rounds, b.seconds, "", targets...)
	if err != nil {
		return err
	}
	if files := list[len(list)-1]; files.target.name == "caddy-files" {
		b.add(&figure{Name: "static-over-caddy", Unit: "x", Values: over(list[len(list)-2], files), Target: 2.5})
		list = list[:len(list)-1]
	}
	list = list[:len(list)-1]
	b.add(&figure{Name: "seal-tax", Unit: "x", Values: over(list[1], list[0]), Target: 0.90})
	for _, s := range list {
		b.add(&figure{Name: "rps-" + strings.ReplaceAll(s.target.name, "/", "-"), Values: s.rates(), None: true})
		target := map[string]float64{"cohttp": 1.1, "caddy": 2.5}[s.target.name]
		if s.target.name != bare.name && s.target.name != plain.name {
			b.add(&figure{Name: "plain-over-" + s.target.name, Unit: "x", Values: over(list[1], s), Target: target, None: target == 0})
		}
	}
	return nil
}

// chain measures what all modules cost, with requests that repeat and with
// requests that do not.
func (b *bench) chain() error {
	plain, stop, err := b.sealed("plain", func(int) string { return plainPolicy })
	if err != nil {
		return err
	}
	defer stop()
	full, stop, err := b.sealed("full", func(port int) string { return fullPolicy(port, size{10_000, 1000}) })
	if err != nil {
		return err
	}
	defer stop()
	for _, c := range []struct {
		name     string
		distinct int
		target   float64
	}{{"chain-repeating", 1, 0.95}, {"chain-distinct", 10_000, 0.80}} {
		script, err := b.script(c.name, c.distinct)
		if err != nil {
			return err
		}
		list, err := rounds(b.rounds, b.seconds, script, plain, full)
		if err != nil {
			return err
		}
		b.add(&figure{Name: c.name, Unit: "x", Values: over(list[1], list[0]), Target: c.target})
		var micros []float64
		for i := range list[1].measures {
			micros = append(micros, list[1].measures[i].micros-list[0].measures[i].micros)
		}
		b.add(&figure{Name: c.name + "-cpu", Unit: "us", Values: micros, None: true})
	}
	return nil
}

// script writes a Lua file for wrk: n requests that differ in user, path and
// amount, in turn.
func (b *bench) script(name string, n int) (string, error) {
	dev := keys.NewDevelopment(filepath.Join(b.home(), ".local", "share", "lorica"))
	var tokens []string
	for i := range min(n, 1000) {
		t, err := dev.Sign(keys.Token{Issuer: "https://idp.example", Audience: "bench", Subject: fmt.Sprintf("user-%d", i),
			Groups: []string{fmt.Sprintf("g%d", i)}, Life: time.Hour}, time.Now())
		if err != nil {
			return "", err
		}
		tokens = append(tokens, t)
	}
	var w strings.Builder
	w.WriteString("local requests = {}\nlocal tokens = {\n")
	for _, t := range tokens {
		fmt.Fprintf(&w, "%q,\n", t)
	}
	fmt.Fprintf(&w, `}
-- wrk knows the host, which every request needs, only from here on.
init = function()
  for i = 0, %d do
    local headers = {["Host"] = wrk.headers["Host"], ["Authorization"] = "Bearer " .. tokens[i %% #tokens + 1], ["Content-Type"] = "application/json"}
    requests[i] = wrk.format("POST", "/accounts/" .. i %% 97 .. "/transfers", headers, '{"amount": ' .. i .. '}')
  end
end
local n = 0
request = function()
  n = n + 1
  return requests[n %% %d]
end
`, n-1, n)
	file := filepath.Join(b.dir, name+".lua")
	return file, os.WriteFile(file, []byte(w.String()), 0o644)
}
