# Who and where lead to the few rules about both, which are data.
package authz

default allow := false

allow if {
	permitted
	not forbidden
}

permitted if {
	some who in data.subjects[input.user]
	some where in data.folders[input.doc]
	some rule in data.permits[who][where]
	rule.actions[input.action]
	holds(rule.when)
}

forbidden if {
	some who in data.subjects[input.user]
	some where in data.folders[input.doc]
	some rule in data.forbids[who][where]
	rule.actions[input.action]
	holds(rule.when)
}
