// Package addrtemplate evaluates the address templates of configuration files: text with pipelines that pick
// addresses of this machine.
//
//	ip, err := addrtemplate.Expand(`{{ GetPrivateInterfaces | include "network" "10.0.0.0/8" | attr "address" }}`)
//
// The functions are those that github.com/hashicorp/go-sockaddr/template documents; that library evaluates them, and
// text/template/parse reads the language. Only the walk over what was read is here, because the standard library's
// can call any method of any value by its name: a program that contains it keeps every exported method of every type,
// which made this one an eighth larger. Conditions, loops and variables are refused: an address needs none.
package addrtemplate

import (
	"fmt"
	"strings"
	"text/template/parse"

	"github.com/hashicorp/go-sockaddr"
)

// Expand evaluates text with the addresses that this machine has now; "." is all of them. Errors say what was not
// understood and where. It may be called at any time by anyone.
func Expand(text string) (string, error) {
	names := make(map[string]any, len(functions))
	for name := range functions {
		names[name] = true
	}
	const name = "template" // stands before the line in errors
	trees, err := parse.Parse(name, text, "", "", names)
	if err != nil {
		return "", err
	}
	all, err := sockaddr.GetAllInterfaces()
	if err != nil {
		return "", fmt.Errorf("read the addresses of the machine: %w", err)
	}
	tree := trees[name]
	if tree == nil { // nothing but definitions
		return "", nil
	}
	w := walker{tree, all}
	var out strings.Builder
	for _, node := range tree.Root.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			out.Write(n.Text)
		case *parse.ActionNode:
			v, err := w.pipe(n.Pipe)
			if err != nil {
				return "", err
			}
			fmt.Fprint(&out, v)
		default:
			return "", w.fail(node, "expected a pipeline of functions")
		}
	}
	return out.String(), nil
}

// walker evaluates one template. Values are string, int, bool and sockaddr.IfAddrs.
type walker struct {
	tree *parse.Tree
	dot  sockaddr.IfAddrs
}

// fail says where in the template something is wrong.
func (w walker) fail(n parse.Node, format string, args ...any) error {
	where, what := w.tree.ErrorContext(n)
	return fmt.Errorf("%s: at <%s>: %w", where, what, fmt.Errorf(format, args...))
}

// pipe evaluates the commands of a pipeline, each with the value before it as its last argument.
func (w walker) pipe(n *parse.PipeNode) (any, error) {
	if len(n.Decl) > 0 {
		return nil, w.fail(n, "expected a pipeline of functions, not a variable")
	}
	v, err := w.command(n.Cmds[0])
	for _, cmd := range n.Cmds[1:] {
		if err != nil {
			break
		}
		v, err = w.command(cmd, v)
	}
	return v, err
}

// command is a function with its arguments, or a single value. before is what the pipe brings, if there is one.
func (w walker) command(n *parse.CommandNode, before ...any) (any, error) {
	f, ok := n.Args[0].(*parse.IdentifierNode)
	if !ok {
		if len(n.Args)+len(before) > 1 {
			return nil, w.fail(n, "%s is not a function", n.Args[0])
		}
		return w.value(n.Args[0])
	}
	args := make([]any, 0, len(n.Args))
	for _, a := range n.Args[1:] {
		v, err := w.value(a)
		if err != nil {
			return nil, err
		}
		args = append(args, v)
	}
	v, err := functions[f.Ident](append(args, before...))
	if err != nil {
		return nil, w.fail(n, "%s: %w", f.Ident, err)
	}
	return v, nil
}

func (w walker) value(node parse.Node) (any, error) {
	switch n := node.(type) {
	case *parse.DotNode:
		return w.dot, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.NumberNode:
		if n.IsInt {
			return int(n.Int64), nil
		}
	case *parse.PipeNode:
		return w.pipe(n)
	case *parse.IdentifierNode: // a function without arguments
		return w.command(&parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{n}})
	}
	return nil, w.fail(node, "expected a text, a whole number, \".\" or a function, not %s", node)
}
