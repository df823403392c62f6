package main

import (
	"fmt"
	"math/rand/v2"
)

// A rule is one policy, in no language: who may, or may not, do what, where, and when. What
// is empty is of everything.
type rule struct {
	forbid  bool
	who     string // a group or a user
	user    bool   // who is a user
	actions []string
	where   string // a folder
	tenant  string // of the context
	project string // of the context, where it has one
	when    string // a condition, below
}

// conditions are what rules may further ask of the context, as Cedar and CEL both write it.
var conditions = map[string]string{
	"hours": "context.hour >= 6 && context.hour < 22",
	"day":   "context.hour < 22",
	"mfa":   "context.mfa",
	"weak":  "!context.mfa",
	"gold":  `context.plan == "gold"`,
	"small": "context.amount <= 1000",
	"risky": "context.risk > 8",
}

// A facts is the context of a request.
type facts struct {
	tenant, project, plan string // project may be empty: there is none
	hour, amount, risk    int
	mfa                   bool
}

// holds is what a condition means, for engines that are given functions.
func (f *facts) holds(when string) bool {
	switch when {
	case "hours":
		return f.hour >= 6 && f.hour < 22
	case "day":
		return f.hour < 22
	case "mfa":
		return f.mfa
	case "weak":
		return !f.mfa
	case "gold":
		return f.plan == "gold"
	case "small":
		return f.amount <= 1000
	case "risky":
		return f.risk > 8
	}
	return when == ""
}

// A request is one question.
type request struct {
	user, action, doc string
	facts             facts
}

// A world is rules, what they are about, and requests.
type world struct {
	name     string
	rules    []rule
	users    []string
	docs     []string
	groups   map[string]bool     // by name
	folders  map[string]bool     // by name
	parents  map[string][]string // of users, groups, documents and folders: the next ones up
	above    map[string][]string // all of them
	requests []request
}

const (
	people = 4096 // as many documents; no two requests that follow one another are alike
	asked  = 4096
)

var actions = []string{"read", "write", "delete"}

// newWorld makes n rules of a mix, and requests that some of them are about.
func newWorld(mix string, n int) *world {
	w := &world{name: fmt.Sprintf("%s/%d", mix, n), groups: map[string]bool{}, folders: map[string]bool{}, parents: map[string][]string{}, above: map[string][]string{}}
	for i := range people {
		w.users, w.docs = append(w.users, fmt.Sprint("u", i)), append(w.docs, fmt.Sprint("d", i))
	}
	teams := max(1, n/4) // four rules each
	switch mix {
	case "scoped":
		w.scoped(n, teams)
	case "wildcard":
		w.wildcard(n, teams)
	case "hierarchy":
		w.hierarchy(n, teams)
	}
	for _, list := range [][]string{w.users, w.docs} {
		for _, x := range list {
			w.above[x] = w.ancestors(x)
		}
	}
	w.ask(teams)
	return w
}

// scoped rules name a group or a user, a folder, and actions: nearly all are about others.
func (w *world) scoped(n, teams int) {
	for i := range n {
		k := i / 4
		group, folder := fmt.Sprint("g", k%teams), fmt.Sprint("f", k%teams)
		w.rules = append(w.rules, []rule{
			{who: group, actions: actions[:1], where: folder},
			{who: group, actions: actions[:2], where: fmt.Sprint("f", (k+1)%teams), when: "hours"},
			{who: fmt.Sprint("u", k), user: true, where: folder, when: "mfa"},
			{forbid: true, who: group, actions: actions[2:], where: folder, when: "weak"},
		}[i%4])
	}
	for i, u := range w.users {
		w.put(w.groups, u, fmt.Sprint("g", i%teams))
		w.put(w.groups, u, fmt.Sprint("g", (7*i+3)%teams))
		w.put(w.folders, w.docs[i], fmt.Sprint("f", i%teams))
	}
	for i := range teams {
		w.groups[fmt.Sprint("g", i)], w.folders[fmt.Sprint("f", i)] = true, true
	}
}

// wildcard rules are about everybody and everything, and ask for a tenant or a project.
func (w *world) wildcard(n, teams int) {
	for i := range n {
		k := i / 4 % teams
		tenant := fmt.Sprint("t", k)
		w.rules = append(w.rules, []rule{
			{tenant: tenant, when: "gold"},
			{tenant: tenant, when: "small"},
			{project: fmt.Sprint("p", k), when: "day"},
			{forbid: true, tenant: tenant, when: "risky"},
		}[i%4])
	}
}

// hierarchy has users in teams in departments in divisions in organizations, and documents
// in folders in projects in areas in roots; rules are about each height.
func (w *world) hierarchy(n, teams int) {
	const fan = 4
	heights := [2][]string{{"team", "department", "division", "organization"}, {"folder", "project", "area", "root"}}
	at := func(side, height, k int) string {
		for range height {
			k /= fan
		}
		return fmt.Sprint(heights[side][height], k)
	}
	for i := range n {
		k := i / 4 % teams
		w.rules = append(w.rules, []rule{
			{who: at(0, 0, k), actions: actions[:1], where: at(1, 0, k)},
			{who: at(0, 1, k), actions: actions[:2], where: at(1, 1, (k+k%fan*fan)%teams), when: "hours"},
			{who: at(0, 2, k), where: at(1, 2, (k+k%(fan*fan)*fan*fan)%teams), when: "mfa"},
			{forbid: true, who: at(0, 3, k), actions: actions[2:], where: at(1, 0, k), when: "weak"},
		}[i%4])
	}
	for i := range teams {
		for side, known := range []map[string]bool{w.groups, w.folders} {
			known[at(side, 0, i)] = true
			for height := range fan - 1 {
				if x, up := at(side, height, i), at(side, height+1, i); len(w.parents[x]) == 0 {
					w.put(known, x, up)
				}
			}
		}
	}
	for i, u := range w.users {
		w.put(w.groups, u, at(0, 0, i%teams))
		w.put(w.folders, w.docs[i], at(1, 0, i%teams))
	}
}

func (w *world) put(known map[string]bool, x, in string) {
	known[in] = true
	w.parents[x] = append(w.parents[x], in)
}

func (w *world) ancestors(x string) (list []string) {
	seen := map[string]bool{}
	var climb func(string)
	climb = func(x string) {
		for _, up := range w.parents[x] {
			if !seen[up] {
				seen[up] = true
				list = append(list, up)
				climb(up)
			}
		}
	}
	climb(x)
	return list
}

// ask makes requests: more than half of a document that rules let the user near, of a user
// who is another with each.
func (w *world) ask(teams int) {
	r := rand.New(rand.NewPCG(uint64(teams), 1))
	plans := []string{"free", "gold", "silver"}
	for i := range asked {
		user := i * 1663 % people // each once
		doc := r.IntN(people)
		if r.IntN(10) < 7 {
			doc = (user%teams + teams*r.IntN(people/teams)) % people
		}
		tenant := user % teams
		x := request{user: w.users[user], action: actions[[]int{0, 0, 1, 2}[r.IntN(4)]], doc: w.docs[doc], facts: facts{
			tenant: fmt.Sprint("t", tenant), plan: plans[r.IntN(len(plans))], hour: r.IntN(24), amount: r.IntN(2000), risk: r.IntN(11), mfa: r.IntN(2) == 0}}
		if r.IntN(20) == 0 {
			x.facts.tenant = "stranger"
		}
		if r.IntN(2) == 0 {
			x.facts.project = fmt.Sprint("p", r.IntN(2*teams))
		}
		w.requests = append(w.requests, x)
	}
}
