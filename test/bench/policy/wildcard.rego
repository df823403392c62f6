# A tenant, and a project, lead to the few rules about them, which are data.
package authz

default allow := false

allow if {
	permitted
	not forbidden
}

permitted if {
	some when in data.permits.tenant[input.context.tenant]
	holds(when)
}

permitted if {
	some when in data.permits.project[input.context.project]
	holds(when)
}

forbidden if {
	some when in data.forbids.tenant[input.context.tenant]
	holds(when)
}
