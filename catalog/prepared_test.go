package catalog_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

const queryA, queryB = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"

func saveQuery(t *testing.T, tr *kv.Tree, q catalog.Query, update bool) {
	t.Helper()
	txn, err := catalog.SaveQuery(tr.Snap(), q, update)
	if err != nil {
		t.Fatal(err)
	}
	if res := tr.Apply(txn)[0]; res.Code != kv.OK {
		t.Fatalf("%+v", res)
	}
}

func web(name string) catalog.Query {
	return catalog.Query{ID: queryA, Name: name, Service: catalog.QueryService{Service: "web"}}
}

func TestQueryNamesAreUnique(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: catalog.Views{}})
	saveQuery(t, tr, web("Front"), false)
	other := web("fRONT")
	other.ID = queryB
	var in *catalog.InputError
	if _, err := catalog.SaveQuery(tr.Snap(), other, false); !errors.As(err, &in) {
		t.Fatalf("the same name in another letter case: %v", err)
	}
	// Two writers who both saw the name free: only one gets it.
	other.Name = "free"
	first, _ := catalog.SaveQuery(tr.Snap(), other, false)
	renamed, _ := catalog.SaveQuery(tr.Snap(), web("free"), true)
	if res := tr.Apply(first, renamed); res[0].Code != kv.OK || !catalog.Stale(res[1].Code) {
		t.Fatalf("%v %v", res[0].Code, res[1].Code)
	}
	// A name that was given up is free again.
	saveQuery(t, tr, web("back"), true)
	if _, ok := catalog.FindQuery(tr.Snap(), "front"); ok {
		t.Error("the old name still finds the query")
	}
	if q, ok := catalog.FindQuery(tr.Snap(), "BACK"); !ok || q.ID != queryA || q.Created == 0 || q.Modified <= q.Created {
		t.Errorf("%+v", q)
	}
	txn, err := catalog.DeleteQuery(tr.Snap(), queryA)
	if err != nil || tr.Apply(txn)[0].Code != kv.OK {
		t.Fatal(err)
	}
	if list := catalog.Queries(tr.Snap()); len(list) != 1 || list[0].ID != queryB {
		t.Errorf("%v", list)
	}
}

// TestQueriesEndWithTheirSession ends sessions in every way there is.
func TestQueriesEndWithTheirSession(t *testing.T) {
	for name, end := range map[string]func(*kv.Snap) (kv.Txn, error){
		"destroyed": func(s *kv.Snap) (kv.Txn, error) { return catalog.DestroySession(s, "s1"), nil },
		"node gone": func(s *kv.Snap) (kv.Txn, error) { return catalog.Deregister(s, "n1", "", "") },
		"check critical": func(s *kv.Snap) (kv.Txn, error) {
			return catalog.SetLiveness(s, "n1", false), nil
		},
	} {
		tr := kv.New(kv.Options{Deriver: catalog.Views{}})
		do := func(txn kv.Txn, err error) {
			t.Helper()
			if err != nil || tr.Apply(txn)[0].Code != kv.OK {
				t.Fatalf("%s: %v", name, err)
			}
		}
		do(catalog.Register(tr.Snap(), catalog.Registration{
			Node: catalog.Node{Name: "n1", Address: "10.0.0.1"}, Checks: []*catalog.Check{{ID: catalog.LivenessCheck, Status: catalog.Passing}},
		}))
		do(catalog.CreateSession(tr.Snap(), catalog.Session{ID: "s1", Node: "n1", NodeChecks: []string{catalog.LivenessCheck}}))
		q := web("")
		q.Session = "s1"
		saveQuery(t, tr, q, false)
		stays := web("stays")
		stays.ID = queryB
		saveQuery(t, tr, stays, false)
		if _, ok := catalog.GetQuery(tr.Snap(), queryA); !ok {
			t.Fatalf("%s: not there", name)
		}
		do(end(tr.Snap()))
		if list := catalog.Queries(tr.Snap()); len(list) != 1 || list[0].ID != queryB {
			t.Errorf("%s: %d queries", name, len(list))
		}
	}
}

// TestQueryChangesItsSession moves a record between its two places.
func TestQueryChangesItsSession(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: catalog.Views{}})
	for _, build := range []func(*kv.Snap) (kv.Txn, error){
		func(s *kv.Snap) (kv.Txn, error) {
			return catalog.Register(s, catalog.Registration{Node: catalog.Node{Name: "n1", Address: "10.0.0.1"}})
		},
		func(s *kv.Snap) (kv.Txn, error) {
			return catalog.CreateSession(s, catalog.Session{ID: "s1", Node: "n1"})
		},
	} {
		txn, err := build(tr.Snap())
		if err != nil || tr.Apply(txn)[0].Code != kv.OK {
			t.Fatal(err)
		}
	}
	q := web("moves")
	saveQuery(t, tr, q, false)
	q.Session = "s1"
	saveQuery(t, tr, q, true)
	q.Session = ""
	saveQuery(t, tr, q, true)
	tr.Apply(catalog.DestroySession(tr.Snap(), "s1"))
	if got, ok := catalog.FindQuery(tr.Snap(), "moves"); !ok || got.Session != "" {
		t.Errorf("%+v %v", got, ok)
	}
}

func TestQueryTemplates(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: catalog.Views{}})
	all := catalog.Query{
		ID: queryA, Template: catalog.QueryTemplate{Type: catalog.TemplateByPrefix},
		Service: catalog.QueryService{Service: "${name.full}"},
	}
	geo := catalog.Query{
		ID: queryB, Name: "Geo-", Template: catalog.QueryTemplate{Type: catalog.TemplateByPrefix, Regexp: `^geo-(.*?)-([^-]+?)?$`, RemoveEmptyTags: true},
		Service: catalog.QueryService{
			Service: "x-${match(1)}", Tags: []string{"${match(2)}", "", "$${kept}"}, Near: "${agent.segment}",
			NodeMeta: map[string]string{"suffix": "${ name.suffix }"}, ServiceMeta: map[string]string{"p": "${name.prefix}", "none": "${match(9)}"},
		},
	}
	saveQuery(t, tr, all, false)
	saveQuery(t, tr, geo, false)
	if q, ok := catalog.FindQuery(tr.Snap(), "db"); !ok || q.Service.Service != "db" {
		t.Errorf("the catch-all gives %+v", q)
	}
	q, ok := catalog.FindQuery(tr.Snap(), "geo-db-master")
	if !ok || q.Name != "geo-db-master" || q.Service.Service != "x-db" || !slices.Equal(q.Service.Tags, []string{"master", "${kept}"}) || q.Service.Near != "" ||
		q.Service.NodeMeta["suffix"] != "db-master" || q.Service.ServiceMeta["p"] != "Geo-" || q.Service.ServiceMeta["none"] != "" {
		t.Errorf("%+v", q)
	}
	if stored, _ := catalog.GetQuery(tr.Snap(), queryB); stored.Service.Tags[0] != "${match(2)}" || len(stored.Service.Tags) != 3 {
		t.Error("rendering changed the stored query")
	}
	for _, bad := range []string{"${nope}", "${name.full", "${match(x)}", "${match(1}"} {
		q := catalog.Query{ID: "c", Name: "c", Template: catalog.QueryTemplate{Type: catalog.TemplateByPrefix}, Service: catalog.QueryService{Service: bad}}
		if _, err := catalog.SaveQuery(tr.Snap(), q, false); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("${match(1)}$${x}${name.suffix}", "(a)", "abc")
	f.Fuzz(func(t *testing.T, text, re, name string) {
		tr := kv.New(kv.Options{Deriver: catalog.Views{}})
		q := catalog.Query{ID: queryA, Template: catalog.QueryTemplate{Type: catalog.TemplateByPrefix, Regexp: re},
			Service: catalog.QueryService{Service: text, Tags: []string{text}, NodeMeta: map[string]string{text: text}}}
		txn, err := catalog.SaveQuery(tr.Snap(), q, false)
		if err != nil {
			return
		}
		if res := tr.Apply(txn)[0]; res.Code != kv.OK {
			t.Fatalf("%+v", res)
		}
		catalog.FindQuery(tr.Snap(), name)
	})
}

func TestQuerySelects(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: catalog.Views{}})
	add := func(node, status string, tags []string, meta map[string]string) {
		t.Helper()
		txn, err := catalog.Register(tr.Snap(), catalog.Registration{
			Node: catalog.Node{Name: node, Address: "10.0.0.1", Meta: meta}, Service: &catalog.Service{Name: "web", Tags: tags, Meta: meta},
			Checks: []*catalog.Check{{ID: "flaky", Status: status, ServiceID: "web"}},
		})
		if err != nil || tr.Apply(txn)[0].Code != kv.OK {
			t.Fatal(err)
		}
	}
	add("a", catalog.Passing, []string{"V1", "blue"}, map[string]string{"rack": "1"})
	add("b", catalog.Warning, []string{"v1"}, nil)
	add("c", catalog.Critical, []string{"v1"}, nil)
	for _, c := range []struct {
		q    catalog.QueryService
		want []string
	}{
		{catalog.QueryService{}, []string{"a", "b"}},
		{catalog.QueryService{OnlyPassing: true}, []string{"a"}},
		{catalog.QueryService{IgnoreCheckIDs: []string{"flaky"}, OnlyPassing: true}, []string{"a", "b", "c"}},
		{catalog.QueryService{Tags: []string{"v1", "!Blue"}}, []string{"b"}},
		{catalog.QueryService{Tags: []string{"v2"}}, nil},
		{catalog.QueryService{NodeMeta: map[string]string{"rack": "1"}, ServiceMeta: map[string]string{"rack": "1"}}, []string{"a"}},
		{catalog.QueryService{NodeMeta: map[string]string{"rack": "2"}}, nil},
		{catalog.QueryService{Connect: true}, nil},
	} {
		c.q.Service = "web"
		var got []string
		for _, i := range (&catalog.Query{Service: c.q}).Select(tr.Snap()) {
			got = append(got, i.Node.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v finds %v, want %v", c.q, got, c.want)
		}
	}
}
