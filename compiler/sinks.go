package compiler

import (
	"cmp"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// connects reports whether images of d make connections.
func connects(d *policy.Deployment) bool {
	return d.Workload.App.Proxy != nil || len(policy.Collectors(d.Policy)) > 0
}

// sinks adds the sections that say where records are kept.
func (l *Level) sinks(d *policy.Deployment) {
	for _, s := range policy.Collectors(d.Policy) {
		c := &audit.Collector{Rule: s.Rule(), Tenant: d.Workload.Metadata.Tenant, Workload: d.Workload.Metadata.Name,
			Host: s.Host, Port: s.Port, ServerName: cmp.Or(s.ServerName, s.Host), Path: s.Path,
			Trust: s.Trust, Certificate: s.Certificate, Key: s.Key, Token: s.Token,
			Deny: s.Deny, Records: s.Records, Bytes: s.Memory, Enterprise: s.Enterprise}
		l.add(s.Section(), c.Encode())
	}
	if policy.Channel(d.Policy) {
		c := audit.Channel{Rule: abi.Rule{ID: "audit:channel", Line: sinksPos(d.Policy).Short()}}
		l.add(audit.ChannelName, c.Encode())
	}
}

// sinksPos is where it is written where records are kept.
func sinksPos(p *api.SecurityPolicy) api.Pos {
	switch {
	case p.Audit == nil:
		return p.Metadata.Pos
	case p.Audit.Sinks == nil:
		return p.Audit.Pos
	}
	return p.Audit.Sinks.Pos
}

// kept returns the capabilities by which records are kept where the policy says.
func kept(p *api.SecurityPolicy) (list []catalog.Requirement) {
	for _, s := range policy.Collectors(p) {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"audit/" + s.Name}, Why: "records are sent to " + s.Host, Pos: s.Pos})
	}
	if policy.Channel(p) {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"audit/channel"}, Why: "records are kept with the tender", Pos: sinksPos(p)})
	}
	return list
}
