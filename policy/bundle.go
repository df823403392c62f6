// Package policy reads what users write: it loads and checks workloads and
// security policies, runs the tests that travel with them, and explains
// decisions with a reference evaluator.
//
// Everything here is deterministic: no clock, no network, no processes.
package policy

import (
	"fmt"
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
)

// A Bundle is a checked set of documents.
type Bundle struct {
	Deployments []*Deployment // in file order of their workloads
	Warnings    Errors        // what is valid and probably not meant, by position

	sources []*source
}

// Line returns the line of a document at a position, as errors show it.
func (b *Bundle) Line(at api.Pos) string {
	for _, s := range b.sources {
		if s.name == at.File {
			return s.line(at.Line)
		}
	}
	return ""
}

// Lines are all lines of the documents, whole, each with its place.
func (b *Bundle) Lines() iter.Seq2[api.Pos, string] {
	return func(yield func(api.Pos, string) bool) {
		for _, s := range b.sources {
			for i, line := range s.lines {
				if !yield(api.Pos{File: s.name, Line: i + 1, Column: 1}, line) {
					return
				}
			}
		}
	}
}

// Policies returns a deployment of each policy, in file order of their workloads: what a
// policy says of requests and packets is the same for all that it selects.
func (b *Bundle) Policies() []*Deployment {
	var out []*Deployment
	for _, d := range b.Deployments {
		if !slices.ContainsFunc(out, func(x *Deployment) bool { return x.Policy == d.Policy }) {
			out = append(out, d)
		}
	}
	return out
}

// Retarget has every workload run on target and with network instead of its own; ""
// leaves them. Its error, if any, is Errors.
func (b *Bundle) Retarget(target, network string) error {
	var errs Errors
	for _, d := range b.Deployments {
		w := d.Workload
		if w.Interface != nil && network == api.NetSocket {
			errs = append(errs, &Error{Pos: w.NetworkPos, Message: "the workload " + w.Metadata.Name + " is on the interface " + w.Interface.Name + ", and cannot have the network socket instead",
				Fix: "remove interface and addresses from spec.network, or ask for no other network"})
			continue
		}
		if target != "" && target != w.Target {
			w.Target, w.TargetPos = target, api.Pos{}
			if network == "" && impossible(w) {
				w.Network, w.NetworkPos = "", api.Pos{} // it was said of the other target
			}
		}
		if network != "" {
			w.Network, w.NetworkPos = network, api.Pos{}
		}
		if impossible(w) {
			errs = append(errs, &Error{Pos: w.Metadata.Pos, Message: "the workload " + w.Metadata.Name + " cannot have the network socket: " + ownStack,
				Fix: "ask for the network direct, or for the target process"})
		}
		if e := tooSmall(w, d.Policy); e != nil {
			errs = append(errs, e)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

const ownStack = "a microVM always has a stack of its own"

// impossible reports a network that the target cannot have.
func impossible(w *api.Workload) bool {
	return w.Target == api.TargetMicroVM && w.Network == api.NetSocket
}

// besideHashes is what a machine needs beside the memory of a password hash: with less the
// first login ends an image of files (measured).
const besideHashes = 21 << 20

// tooSmall returns an error where passwords cannot be verified in the memory of a microVM, which
// is all that there is: of a process it is what the Go runtime aims at.
func tooSmall(w *api.Workload, s *api.SecurityPolicy) *Error {
	a := s.Authentication
	if w.Target != api.TargetMicroVM || a == nil || a.Basic == nil || a.Basic.Memory == 0 || w.Memory >= besideHashes+a.Basic.Memory {
		return nil
	}
	return &Error{Pos: a.Basic.Pos, Message: fmt.Sprintf("verifying a password takes %s, and the microVM of workload %s has %s for everything", sizeText(a.Basic.Memory), w.Metadata.Name, sizeText(w.Memory)),
		Fix: "write resources: {memory: " + sizeText((besideHashes+a.Basic.Memory+1<<20-1)>>20<<20) + "} or more in the workload, or verifiers that cost less"}
}

// A Deployment is a workload and the policy that selects it.
type Deployment struct {
	Workload      *api.Workload
	Policy        *api.SecurityPolicy
	Authorization *Authorization // nil where the policy has none
}

// Name returns "tenant/workload".
func (d *Deployment) Name() string {
	return d.Workload.Metadata.Tenant + "/" + d.Workload.Metadata.Name
}

// Authorization is the checked Cedar part of a policy.
type Authorization struct {
	Rules      []CedarRule       // in file order; ids are unique
	Attributes []authz.Attribute // of the context, ordered by name
	Principal  cedar.EntityType  // "User"
	Group      cedar.EntityType  // parent type of the principal; empty: none
	GroupClaim string            // JSON pointer to the groups in a token's claims; empty: none
	Resource   cedar.EntityType  // "Route"
	RouteGroup cedar.EntityType  // parent type of the resource; empty: none
	Action     cedar.EntityUID   // Action::"call"
	Entities   types.EntityMap   // what the policy was given
}

// A CedarRule is one Cedar policy. Its ID is the @id annotation, or "cedar-N"
// where N counts from one.
type CedarRule struct {
	ID     string
	Pos    api.Pos // in the document, not in the block
	Policy *ast.Policy
	DryRun bool   // @enforcement("DryRun"): it is tried, and decides nothing
	Text   string // as written, with comments before it; empty where others are in the same statement
}
