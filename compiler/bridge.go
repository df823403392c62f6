package compiler

import (
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
)

// A claim is a rule of a section that images of other levels may not take, and the routes
// that it is about; none: every request.
type claim struct {
	section string
	abi.Rule
	routes []string
}

// claims returns those of the i-th level.
func claims(p *api.SecurityPolicy, i int) (list []claim) {
	for name, kind := range map[string]limitKind{limit.SourceName: sourceLimits, limit.PrincipalName: principalLimits} {
		for _, l := range limitSection(p, i, kind, false).Limits {
			list = append(list, claim{name, l.Rule, l.Routes})
		}
	}
	for _, o := range obligationSection(p, i, false).Obligations {
		list = append(list, claim{obligation.Name, o.Rule, nil})
	}
	slices.SortStableFunc(list, func(a, b claim) int { return strings.Compare(a.section, b.section) })
	return list
}

// section returns the place of a section, or -1.
func (l *Level) section(name string) int {
	return slices.IndexFunc(l.Sections, func(s program.Section) bool { return s.Name == name })
}

// takes reports whether the image of l takes a section.
func (l *Level) takes(name string) bool { return l.section(name) >= 0 }

// Lacks returns the rules of l that the image of another level has no module for.
func (l *Level) Lacks(image *Level) (rules []abi.Rule) {
	for _, c := range l.claims {
		if !image.takes(c.section) {
			rules = append(rules, c.Rule)
		}
	}
	for _, s := range l.Sections {
		if settings.OfUser(s.Name) && !image.takes(s.Name) {
			rules = append(rules, abi.Rule{ID: s.Name})
		}
	}
	return rules
}

// in returns the sections of l for the image of another level of the same policy. What
// this one has no module for is closed: all that those rules are about is denied, until
// an image comes that enforces them.
func (l *Level) in(image *Level) (sections []program.Section) {
	if at := l.section(dryrun.Name); at >= 0 {
		sections = append(sections, l.Sections[at])
	}
	for _, s := range image.Sections {
		if tried(s.Name) {
			continue
		}
		at := l.section(s.Name)
		switch {
		case s.Name == route.Name:
			s.Data = l.closed(l.Sections[at].Data, image)
		case at >= 0:
			s.Data = l.Sections[at].Data
		case settings.OfUser(s.Name): // is told the same at every level
		case s.Name == obligation.Name:
			s.Data = (&obligation.Section{}).Encode()
		default:
			s.Data = (&limit.Section{}).Encode()
		}
		sections = append(sections, s)
		if at := l.section(dryrun.Of(s.Name)); at >= 0 { // what the image has no module for is not tried
			sections = append(sections, l.Sections[at])
		}
	}
	return sections
}

// tried reports whether a section says what is tried, and not enforced.
func tried(name string) bool {
	_, ok := dryrun.Beside(name)
	return ok || name == dryrun.Name
}

// closed returns the section of the filter with everything closed that the image cannot
// enforce; nothing where that cannot be said, which no image takes.
func (l *Level) closed(filter []byte, image *Level) []byte {
	s, err := route.Decode(filter)
	if err != nil {
		return nil
	}
	if l.DryRun {
		return filter // nobody is denied for it
	}
	for _, x := range l.Sections {
		beside := slices.Contains([]string{limit.SourceName, limit.PrincipalName, obligation.Name}, x.Name) && l.takes(dryrun.Of(x.Name)) // there for what is tried
		if !tried(x.Name) && !beside && !image.takes(x.Name) && !slices.ContainsFunc(l.claims, func(c claim) bool { return c.section == x.Name }) {
			s.Closed = abi.Rule{ID: x.Name} // no level has one that others do not, but those of claims
		}
	}
	for _, c := range l.claims {
		switch {
		case image.takes(c.section):
		case len(c.routes) == 0:
			s.Closed = c.Rule
		default:
			for i := range s.Routes {
				if slices.Contains(c.routes, s.Routes[i].Name) {
					s.Routes[i].Closed = c.Rule
				}
			}
		}
	}
	return s.Encode()
}
