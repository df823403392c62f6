package audit

import "time"

// A Decision is a record as a spool keeps it and as commands print it: one JSON object on
// one line. Whoever keeps records and whoever reads them share its names.
type Decision struct {
	Seq       uint64    `json:"seq"` // without gaps, from one
	Time      time.Time `json:"time"`
	Instance  string    `json:"instance"`
	Tier      string    `json:"tier"`
	ID        string    `json:"id"`
	Decision  string    `json:"decision"` // "Allow" or "Deny"
	Stage     string    `json:"stage"`
	Rule      string    `json:"rule"`
	Line      string    `json:"line,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Status    uint16    `json:"status,omitempty"`
	Principal string    `json:"principal,omitempty"`
	Source    string    `json:"source,omitempty"`
	Protocol  string    `json:"protocol,omitempty"` // "TCP", "UDP" or "ICMP", else its number
	Port      uint16    `json:"port,omitempty"`
	Method    string    `json:"method,omitempty"`
	Route     string    `json:"route,omitempty"`
	Path      string    `json:"path,omitempty"`
	Level     string    `json:"level"`
	Revision  uint64    `json:"revision"`
	Program   string    `json:"program"`

	// What authorization judged by: groups of the principal, and attributes by name; null
	// for one that the request has not. Partial names what does not hold all that was
	// judged, redacted or cut, as audit.redact does: "attribute.note", "groups", "path";
	// "attributes" where some were left out.
	Groups  []string           `json:"groups,omitempty"`
	Facts   map[string]*string `json:"facts,omitempty"`
	Partial []string           `json:"partial,omitempty"`

	// What would have been decided if what is tried were enforced; nil: the same.
	DryRun *DryRun `json:"dryRun,omitempty"`
}

// A DryRun is a decision that was not enforced.
type DryRun struct {
	Decision string `json:"decision"`
	Stage    string `json:"stage"`
	Rule     string `json:"rule"`
	Line     string `json:"line,omitempty"`
	Reason   string `json:"reason,omitempty"`
}
