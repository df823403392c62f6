package authz

holds("")

holds("hours") if {
	input.context.hour >= 6
	input.context.hour < 22
}

holds("day") if input.context.hour < 22

holds("mfa") if input.context.mfa

holds("weak") if not input.context.mfa

holds("gold") if input.context.plan == "gold"

holds("small") if input.context.amount <= 1000

holds("risky") if input.context.risk > 8
