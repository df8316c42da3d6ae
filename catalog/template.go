package catalog

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// template is a compiled QueryTemplate: what of the query's texts is literal and what is filled in.
//
//	${name.full} ${name.prefix} ${name.suffix}   the name asked for, and its parts
//	${match(0)} ${match(1)} ...                  what Regexp and its groups match in it, "" when nothing
//	${agent.segment}                             always ""
//	$${                                          a literal "${"
type template struct {
	re *regexp.Regexp // nil without one
}

// newTemplate checks the template of a query; nil when it is none.
func newTemplate(q *Query) (*template, error) {
	if q.Template.Type == "" {
		return nil, nil
	}
	if q.Template.Type != TemplateByPrefix {
		return nil, &InputError{fmt.Sprintf("Bad Template.Type '%s'", q.Template.Type)}
	}
	t := &template{}
	if q.Template.Regexp != "" {
		var err error
		if t.re, err = regexp.Compile(q.Template.Regexp); err != nil {
			return nil, &InputError{"Bad Regexp: " + err.Error()}
		}
	}
	var bad error
	eachText(q, func(text string) string {
		if _, err := t.fill(text, "", ""); err != nil {
			bad = err
		}
		return text
	})
	return t, bad
}

// render gives the query for a name that begins with q's.
func (q *Query) render(name string) *Query {
	out := *q
	if q.template == nil {
		return &out
	}
	out.Name = name
	eachText(&out, func(text string) string {
		if filled, err := q.template.fill(text, name, q.Name); err == nil {
			return filled
		}
		return text
	})
	if q.Template.RemoveEmptyTags {
		out.Service.Tags = slices.DeleteFunc(out.Service.Tags, func(t string) bool { return t == "" })
	}
	return &out
}

// eachText replaces every text of the query's Service by what f makes of it. Lists and maps are copied.
func eachText(q *Query, f func(string) string) {
	s := &q.Service
	s.Service, s.Near, s.SamenessGroup, s.Peer = f(s.Service), f(s.Near), f(s.SamenessGroup), f(s.Peer)
	for _, list := range []*[]string{&s.Tags, &s.IgnoreCheckIDs, &s.Failover.Datacenters} {
		*list = slices.Clone(*list)
		for i, text := range *list {
			(*list)[i] = f(text)
		}
	}
	s.Failover.Targets = slices.Clone(s.Failover.Targets)
	for i := range s.Failover.Targets {
		t := &s.Failover.Targets[i]
		t.Peer, t.Datacenter = f(t.Peer), f(t.Datacenter)
	}
	for _, m := range []*map[string]string{&s.NodeMeta, &s.ServiceMeta} {
		*m = maps.Clone(*m)
		for _, k := range slices.Sorted(maps.Keys(*m)) {
			(*m)[k] = f((*m)[k])
		}
	}
}

// fill replaces the variables in one text.
func (t *template) fill(text, name, prefix string) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), nil
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		b.WriteString(text[:i])
		expr, rest, ok := strings.Cut(text[i+2:], "}")
		if !ok {
			return "", fmt.Errorf("%q has no closing brace", text)
		}
		v, err := t.value(strings.TrimSpace(expr), name, prefix)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
		text = rest
	}
}

func (t *template) value(expr, name, prefix string) (string, error) {
	switch expr {
	case "name.full":
		return name, nil
	case "name.prefix":
		return prefix, nil
	case "name.suffix":
		return name[min(len(prefix), len(name)):], nil
	case "agent.segment":
		return "", nil
	}
	arg, begins := strings.CutPrefix(expr, "match(")
	arg, ends := strings.CutSuffix(arg, ")")
	if !begins || !ends {
		return "", fmt.Errorf("unknown variable %q", expr)
	}
	n, err := strconv.Atoi(strings.TrimSpace(arg))
	if err != nil || n < 0 {
		return "", errors.New("match() wants the number of a group")
	}
	if t.re == nil {
		return "", nil
	}
	if groups := t.re.FindStringSubmatch(name); n < len(groups) {
		return groups[n], nil
	}
	return "", nil
}
