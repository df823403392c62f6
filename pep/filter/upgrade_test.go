package filter_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep"
)

// Only the one upgrade that is known passes, on a route that says so, in the one
// form that it has.
func TestUpgrades(t *testing.T) {
	s := section("GET /chat", "* /any", "GET /plain")
	s.Routes[0].Upgrade, s.Routes[1].Upgrade = "websocket", "websocket"
	addr := serve(t, s, func(x *pep.Exchange, w http.ResponseWriter) { io.WriteString(w, "app "+x.Route.Name) })
	const good = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for name, c := range map[string]struct {
		old, new string
		status   string
	}{
		"as it should be":        {"", "", "200"},
		"in capitals":            {"Upgrade: websocket", "Upgrade: WebSocket", "200"},
		"of a route for any":     {"/chat", "/any", "200"},
		"of another route":       {"/chat", "/plain", "501"},
		"of no route":            {"/chat", "/none", "404"},
		"by another method":      {"GET /chat", "POST /any", "501"},
		"HEAD":                   {"GET", "HEAD", "501"},
		"in letters of Unicode":  {"Upgrade: websocket", "Upgrade: web\u017focket", "501"},
		"to HTTP/2":              {"Upgrade: websocket", "Upgrade: h2c", "501"},
		"to one of two":          {"Upgrade: websocket", "Upgrade: websocket, h2c", "501"},
		"to two":                 {"Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c", "501"},
		"without the header":     {"Upgrade: websocket\r\n", "", "501"},
		"without the connection": {"close, Upgrade", "close", "501"},
		"with a body":            {"Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 1", "501"},
		"with a chunked body":    {"Upgrade: websocket", "Upgrade: websocket\r\nTransfer-Encoding: chunked", "501"},
		"of HTTP/1.0":            {"HTTP/1.1", "HTTP/1.0", "501"},
	} {
		raw := strings.Replace(good, c.old, c.new, 1)
		if strings.HasSuffix(raw, "chunked\r\n\r\n") {
			raw += "0\r\n\r\n"
		}
		got := send(t, addr, raw)
		if !strings.HasPrefix(got[min(len(got), 9):], c.status+" ") || c.status == "501" && name != "HEAD" && !strings.Contains(got, abi.RuleRequest) {
			t.Errorf("an upgrade %s: want %s, got:\n%s", name, c.status, got)
		}
	}
}
