package transport_test

import (
	"bytes"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
)

func mutual() transport.Section {
	return transport.Section{Rule: abi.Rule{ID: abi.RuleTLS, Line: "p.yaml:7"}, Mode: transport.Mutual, MinVersion: transport.TLS12, HTTP2: true,
		Certificate: "cert", Key: "key", ClientTrust: "trust"}
}

func TestSectionsComeBackAsTheyWere(t *testing.T) {
	simple := mutual()
	simple.Mode, simple.ClientTrust, simple.HTTP2, simple.MinVersion = transport.Simple, "", false, transport.TLS13
	for _, s := range []transport.Section{mutual(), simple} {
		got, err := transport.Decode(s.Encode())
		if err != nil || got != s {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestNothingDecodesToNoSection(t *testing.T) {
	for name, edit := range map[string]func(*transport.Section){
		"no mode":                         func(s *transport.Section) { s.Mode = transport.None },
		"an unknown mode":                 func(s *transport.Section) { s.Mode = 4 },
		"an unknown version":              func(s *transport.Section) { s.MinVersion = 2 },
		"no certificate":                  func(s *transport.Section) { s.Certificate = "" },
		"no key":                          func(s *transport.Section) { s.Key = "" },
		"clients that nobody vouches for": func(s *transport.Section) { s.ClientTrust = "" },
		"trust that nobody asks for":      func(s *transport.Section) { s.Mode = transport.Simple },
	} {
		s := mutual()
		edit(&s)
		if got, err := transport.Decode(s.Encode()); err == nil || got != (transport.Section{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	s := mutual()
	whole := s.Encode()
	for n := range whole {
		if got, err := transport.Decode(whole[:n]); err == nil || got != (transport.Section{}) {
			t.Fatalf("%d of %d bytes: %+v, %v", n, len(whole), got, err)
		}
	}
	if _, err := transport.Decode(append(whole, 0)); err == nil {
		t.Error("a byte too many is accepted")
	}
	if _, err := transport.Decode(make([]byte, 64)); err == nil {
		t.Error("zero bytes are accepted")
	}
}

func TestModesHaveTheirNames(t *testing.T) {
	for _, m := range []transport.Mode{transport.None, transport.Simple, transport.OptionalMutual, transport.Mutual} {
		if got, ok := transport.ParseMode(m.String()); !ok || got != m {
			t.Errorf("%s: %v, %v", m, got, ok)
		}
	}
	if m, ok := transport.ParseMode("mutual"); ok || m != transport.None {
		t.Errorf("another spelling: %v", m)
	}
	if s := transport.Mode(9).String(); s != "unknown" {
		t.Error(s)
	}
}

func FuzzDecode(f *testing.F) {
	s := mutual()
	f.Add(s.Encode())
	f.Add([]byte{})
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := transport.Decode(b)
		if err != nil {
			if s != (transport.Section{}) {
				t.Errorf("half a section: %+v", s)
			}
			return
		}
		if !bytes.Equal(s.Encode(), b) {
			t.Errorf("%x reads as %+v", b, s)
		}
	})
}
