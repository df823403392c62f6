package link

import (
	"bytes"
	"strings"
	"testing"
	"testing/iotest"

	"lorica.dev/lorica/abi/egress"
)

func TestMessagesSurviveTheLink(t *testing.T) {
	var b bytes.Buffer
	for _, m := range []string{"", "a", strings.Repeat("x", egress.MaxMessage)} {
		if err := WriteMessage(&b, []byte(m)); err != nil {
			t.Fatal(err)
		}
		b.WriteString("rest")
		if got, err := ReadMessage(iotest.OneByteReader(&b)); err != nil || string(got) != m {
			t.Errorf("%d bytes: got %d, %v", len(m), len(got), err)
		}
		if string(b.Next(4)) != "rest" {
			t.Error("it read more than the message")
		}
	}
	if WriteMessage(&b, make([]byte, egress.MaxMessage+1)) == nil || b.Len() > 0 {
		t.Error("a message that is too long was written")
	}
	for _, cut := range []string{"", "\x01", "\x02\x00", "\x02\x00a", "\xff\xff" + strings.Repeat("x", 1<<16)} {
		if got, err := ReadMessage(strings.NewReader(cut)); err == nil {
			t.Errorf("%.4q is the message %q", cut, got)
		}
	}
}
