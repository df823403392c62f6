package corpus

import (
	"strings"
	"testing"
)

func TestEntries(t *testing.T) {
	list, err := Entries()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 300 {
		t.Fatalf("only %d entries", len(list))
	}
	for _, e := range list {
		if e.Name == "length: beyond the limit" && !strings.HasSuffix(string(e.Raw), "\r\n\r\n"+strings.Repeat("a", 1025)) {
			t.Errorf("%.100q", e.Raw)
		}
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	const good = "== a\n> \"x\"\n< 200\n= GET / 0\n"
	if list, err := parse(good); err != nil || len(list) != 1 || string(list[0].Raw) != "x" || list[0].Status != "200" || len(list[0].Sees) != 1 {
		t.Fatalf("control: %+v, %v", list, err)
	}
	for _, bad := range []string{"> \"x\"\n" + good, good + "?", good + good, "== a\n> \"x\"\n", "== a\n< 200\n", "==\n" + good, strings.Replace(good, `"x"`, `"x`, 1)} {
		if list, err := parse(bad); err == nil {
			t.Errorf("%q gave %+v", bad, list)
		}
	}
}

func TestStatuses(t *testing.T) {
	for in, want := range map[string]string{"": "none", "HTTP/1.1 200 OK\r\n\r\nok\nHTTP/1.1 400 Bad\r\n": "200 400", "x HTTP/1.1 200": "none"} {
		if got := Statuses([]byte(in)); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}
