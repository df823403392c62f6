package filter

import (
	"net/netip"
	"strconv"
	"strings"
)

// plainHost reports whether a Host is a name or an address with or without a port,
// and no more. RFC 3986 allows a name to hold the delimiters of lists and paths;
// an application that compares hosts is not to meet any.
func plainHost(s string) bool {
	host, port, more := s, "", false
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		a, err := netip.ParseAddr(s[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return false
		}
		if host, port, more = "x", strings.TrimPrefix(s[end+1:], ":"), s[end+1:] != ""; more && s[end+1] != ':' {
			return false
		}
	} else {
		host, port, more = strings.Cut(s, ":")
	}
	if more {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	for i := range len(host) {
		if c := host[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return host != ""
}
