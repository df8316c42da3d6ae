package consul

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashicorp/go-bexpr/grammar"
)

// Limits of a filter expression: it comes from the network, and its parser backtracks.
const (
	maxFilter      = 4 << 10 // bytes
	maxFilterSteps = 500_000 // of the parser
)

// filter is a compiled ?filter= expression over values of type T; nil lets everything pass.
//
// Expressions are parsed by the library of the dialect. They are evaluated here because this dialect decides all
// types and selectors before the first value is seen, and because a selector that meets a list means "any element
// of it" (contract: consul-http 4), neither of which the library still does.
type filter[T any] struct{ match matcher }

// matcher tells whether a value of the compiled type matches.
type matcher func(reflect.Value) bool

// newFilter compiles an expression; the error is ready for the client.
func newFilter[T any](expr string) (*filter[T], error) {
	if expr == "" {
		return nil, nil
	}
	m, err := compileFilter(expr, reflect.TypeFor[T]())
	if err != nil {
		return nil, serverError("Failed to create boolean expression evaluator: %v", err)
	}
	return &filter[T]{m}, nil
}

func (f *filter[T]) pass(v *T) bool {
	return f == nil || f.match(reflect.ValueOf(v).Elem())
}

// contractError is an error whose text clients know.
type contractError string

func (e contractError) Error() string { return string(e) }

func compileFilter(expr string, t reflect.Type) (matcher, error) {
	if len(expr) > maxFilter {
		return nil, fmt.Errorf("expression is longer than %d bytes", maxFilter)
	}
	ast, err := grammar.Parse("", []byte(expr), grammar.MaxExpressions(maxFilterSteps))
	if err != nil {
		return nil, err
	}
	e, ok := ast.(grammar.Expression)
	if !ok {
		return nil, fmt.Errorf("not an expression: %q", expr)
	}
	return compileNode(e, t)
}

func compileNode(e grammar.Expression, t reflect.Type) (matcher, error) {
	switch e := e.(type) {
	case *grammar.UnaryExpression:
		m, err := compileNode(e.Operand, t)
		if err != nil {
			return nil, err
		}
		return func(v reflect.Value) bool { return !m(v) }, nil
	case *grammar.BinaryExpression:
		l, err := compileNode(e.Left, t)
		if err != nil {
			return nil, err
		}
		r, err := compileNode(e.Right, t)
		if err != nil {
			return nil, err
		}
		if e.Operator == grammar.BinaryOpAnd {
			return func(v reflect.Value) bool { return l(v) && r(v) }, nil
		}
		return func(v reflect.Value) bool { return l(v) || r(v) }, nil
	case *grammar.MatchExpression:
		return compileMatch(e, e.Selector.Path, t, false)
	default:
		return nil, errors.New("expressions with any or all are not supported: a selector that meets a list means any element of it")
	}
}

// compileMatch follows the selector through the type and ends at the operator. inMap is set below a map key.
func compileMatch(e *grammar.MatchExpression, path []string, t reflect.Type, inMap bool) (matcher, error) {
	if t.Kind() == reflect.Pointer {
		m, err := compileMatch(e, path, t.Elem(), inMap)
		if err != nil {
			return nil, err
		}
		missing := absent(e.Operator)
		return func(v reflect.Value) bool {
			if v.IsNil() {
				return missing
			}
			return m(v.Elem())
		}, nil
	}
	if len(path) == 0 {
		return compileOperator(e, t, inMap)
	}
	switch t.Kind() {
	case reflect.Struct:
		f, ok := t.FieldByName(path[0])
		if !ok || !f.IsExported() {
			return nil, contractError(fmt.Sprintf("Selector %q is not valid", strings.Join(e.Selector.Path, ".")))
		}
		m, err := compileMatch(e, path[1:], f.Type, false)
		if err != nil {
			return nil, err
		}
		i := f.Index
		return func(v reflect.Value) bool { return m(v.FieldByIndex(i)) }, nil
	case reflect.Slice:
		m, err := compileMatch(e, path, t.Elem(), false)
		if err != nil {
			return nil, err
		}
		return func(v reflect.Value) bool {
			for i := range v.Len() {
				if m(v.Index(i)) {
					return true
				}
			}
			return false
		}, nil
	case reflect.Map:
		m, err := compileMatch(e, path[1:], t.Elem(), true)
		if err != nil {
			return nil, err
		}
		key, missing := reflect.ValueOf(path[0]), absent(e.Operator)
		return func(v reflect.Value) bool {
			if x := v.MapIndex(key); x.IsValid() {
				return m(x)
			}
			return missing
		}, nil
	default:
		return nil, contractError(fmt.Sprintf("Selector %q is not valid", strings.Join(e.Selector.Path, ".")))
	}
}

// absent is what an operator says about something that is not there.
func absent(op grammar.MatchOperator) bool {
	switch op {
	case grammar.MatchNotEqual, grammar.MatchNotIn, grammar.MatchNotContains, grammar.MatchIsEmpty,
		grammar.MatchNotMatches, grammar.MatchIsNil:
		return true
	default:
		return false
	}
}

// compileOperator ends a selector: which operators there are depends on the type.
func compileOperator(e *grammar.MatchExpression, t reflect.Type, inMap bool) (matcher, error) {
	raw := ""
	if e.Value != nil {
		raw = e.Value.Raw
	}
	op, negate := positive(e.Operator)
	var m matcher
	var err error
	switch {
	case op == grammar.MatchIsEmpty && !inMap && (t.Kind() == reflect.String || t.Kind() == reflect.Slice || t.Kind() == reflect.Map):
		m = func(v reflect.Value) bool { return v.Len() == 0 }
	case op == grammar.MatchEqual:
		m, err = compileEqual(t, raw)
	case op == grammar.MatchIn:
		m, err = compileIn(t, raw)
	case op == grammar.MatchMatches && t.Kind() == reflect.String:
		re, rerr := regexp.Compile(raw)
		if rerr != nil {
			return nil, fmt.Errorf("failed to compile regular expression %q: %w", raw, rerr)
		}
		m = func(v reflect.Value) bool { return re.MatchString(v.String()) }
	}
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, contractError(fmt.Sprintf("Invalid match operator %q for selector %q", e.Operator, strings.Join(e.Selector.Path, ".")))
	}
	if negate {
		return func(v reflect.Value) bool { return !m(v) }, nil
	}
	return m, nil
}

// positive strips the negation off an operator; "contains" is "in" with its sides swapped.
func positive(op grammar.MatchOperator) (grammar.MatchOperator, bool) {
	switch op {
	case grammar.MatchNotEqual:
		return grammar.MatchEqual, true
	case grammar.MatchNotIn, grammar.MatchNotContains:
		return grammar.MatchIn, true
	case grammar.MatchContains:
		return grammar.MatchIn, false
	case grammar.MatchIsNotEmpty:
		return grammar.MatchIsEmpty, true
	case grammar.MatchNotMatches:
		return grammar.MatchMatches, true
	default:
		return op, false
	}
}

// compileEqual returns no matcher for types that cannot be compared.
func compileEqual(t reflect.Type, raw string) (matcher, error) {
	switch t.Kind() {
	case reflect.String:
		return func(v reflect.Value) bool { return v.String() == raw }, nil
	case reflect.Bool:
		b, err := strconv.ParseBool(raw)
		return func(v reflect.Value) bool { return v.Bool() == b }, err
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(raw, 0, 64)
		return func(v reflect.Value) bool { return v.Int() == n }, err
	case reflect.Uint64:
		n, err := strconv.ParseUint(raw, 0, 64)
		return func(v reflect.Value) bool { return v.Uint() == n }, err
	default:
		return nil, nil
	}
}

// compileIn returns no matcher for types that contain nothing.
func compileIn(t reflect.Type, raw string) (matcher, error) {
	switch {
	case t.Kind() == reflect.String:
		return func(v reflect.Value) bool { return strings.Contains(v.String(), raw) }, nil
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		key := reflect.ValueOf(raw)
		return func(v reflect.Value) bool { return v.MapIndex(key).IsValid() }, nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return func(v reflect.Value) bool {
			for i := range v.Len() {
				if v.Index(i).String() == raw {
					return true
				}
			}
			return false
		}, nil
	default:
		return nil, nil
	}
}
