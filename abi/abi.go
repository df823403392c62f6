// Package abi holds the words that image and host share: verdicts, rules and
// the version of the contract. Its subpackages hold one section each.
//
// The whole tree under abi imports only the standard library, uses neither
// reflect nor encoding/json, and decodes zero bytes to a denial. It is the only
// place where the image half and the host half of Lorica meet.
package abi

// Version is the contract spoken by this build; an image and a tender talk
// when their versions are equal or one apart.
const Version = 7

// Compatible reports whether this build can talk to a peer of version v.
func Compatible(v uint32) bool { return v == Version || v+1 == Version || v == Version+1 }

// A Verdict is the outcome of a decision. The zero Verdict is Deny.
type Verdict uint8

const (
	Deny Verdict = iota
	Allow
)

func (v Verdict) String() string {
	if v == Allow {
		return "Allow"
	}
	return "Deny"
}

// MarshalText makes documents say "Allow" or "Deny", not a number.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// A Rule names what decided: the policy's own name for a rule, or a name that
// starts with "default:" where no rule matched, and where it is written.
type Rule struct {
	ID   string // for example "staff-read" or "default:authorization"
	Line string // for example "policy.yaml:41"; empty where nothing is written
}

// Modules that judge, as decisions and audit records name them.
const (
	StageFirewall       = "firewall"
	StageTLS            = "tls"
	StageObligations    = "obligations"
	StageFilter         = "filter"
	StageSourceLimit    = "limit-source"
	StageAuthn          = "authn"
	StagePrincipalLimit = "limit-principal"
	StageAuthz          = "authz"
	StageEgress         = "egress"
	StageAudit          = "audit"
)

// Names of the rules that decide where no written rule does.
const (
	RuleNetwork   = "default:network"           // no network rule matched
	RuleTLS       = "default:tls"               // no handshake, or no certificate that is trusted
	RuleRoute     = "default:route"             // no such path
	RuleMethod    = "default:method"            // the path exists with other methods
	RuleRequest   = "default:request"           // malformed, or beyond a limit
	RuleAuthn     = "default:authentication"    // no credentials, or none of a kind that is known
	RuleAuthz     = "default:authorization"     // no Cedar policy permitted it
	RuleAttribute = "default:missing-attribute" // a required attribute has no value
	RuleEgress    = "default:egress"            // no egress rule matched
	RuleLevel     = "default:level"             // the level asks for a module that this image does not have
	RuleDryRun    = "default:dry-run"           // the whole policy is tried, and not enforced
	RuleAudit     = "default:audit"             // there was no place for a record that must have one
	RuleError     = "default:error"             // an enforcement module failed
)
