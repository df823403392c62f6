package compiler

// Capabilities returns what policies and workloads may ask modules for, by name. What no
// module requires and is not among these is in no image but by its name.
func Capabilities() []string {
	return []string{
		"app/files", "app/files/compressed", "app/files/plain", "app/handler", "app/proxy",
		"audit", "audit/channel", "audit/otlp", "audit/syslog",
		"authn", "authn/basic", "authn/basic/argon2id", "authn/basic/bcrypt", "authn/basic/pbkdf2", "authn/basic/verifier", "authn/jwt", "authn/mtls",
		"authz/cedar",
		"egress",
		"filter",
		"firewall",
		"image/microvm", "image/process",
		"net", "net/dhcp", "net/direct", "net/ipv6", "net/socket",
		"obligations",
		"ratelimit/principal", "ratelimit/source",
		"tls/server",
	}
}
