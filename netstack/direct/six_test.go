package direct_test

import (
	"os"
	"testing"

	"lorica.dev/lorica/netstack/direct"
	"lorica.dev/lorica/netstack/ip6"
)

// Package ip6 needs this one, so tests that are in it cannot import that.
func TestMain(m *testing.M) {
	direct.IPv6 = ip6.New()
	os.Exit(m.Run())
}
