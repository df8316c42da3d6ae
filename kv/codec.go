package kv

import (
	"encoding/binary"
	"fmt"
)

// The envelope of a Txn is a stream of numbered fields. A field begins with its tag, a varint of number*2 + type;
// type 0 is a varint, type 1 a length and that many bytes. Zero fields are left out. fieldCond and fieldOp begin a
// condition and an operation; the fields after them belong to it. Numbers are never used again for something else;
// a number unknown to the reader makes it refuse the whole Txn.
const (
	fieldNow       = 1 << 1 // zigzag
	fieldCond      = 2 << 1 // kind
	fieldOp        = 3 << 1 // kind
	fieldPath      = 4<<1 | 1
	fieldValue     = 5<<1 | 1
	fieldIndex     = 6 << 1
	fieldOwner     = 7<<1 | 1
	fieldFlat      = 8 << 1
	fieldAction    = 9 << 1
	fieldFlags     = 10 << 1
	fieldUserFlags = 11 << 1
	fieldExpires   = 12 << 1 // zigzag, as the two below
	fieldOwnerPath = 13<<1 | 1
	fieldCutoff    = 14 << 1
	fieldExtend    = 15 << 1
)

func zig(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzig(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func appendUint(b []byte, tag uint64, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(tag)), v)
}

func appendText(b []byte, tag uint64, v string) []byte {
	if v == "" {
		return b
	}
	b = binary.AppendUvarint(append(b, byte(tag)), uint64(len(v)))
	return append(b, v...)
}

// Marshal encodes the Txn as a binary envelope with numbered fields, for the log and for Unmarshal.
func (t Txn) Marshal() []byte {
	n := 16
	for i := range t.Conds {
		c := &t.Conds[i]
		n += 32 + len(c.Path) + len(c.Value) + len(c.Owner)
	}
	for i := range t.Ops {
		o := &t.Ops[i]
		n += 48 + len(o.Path) + len(o.Value) + len(o.Owner) + len(o.OwnerPath)
	}
	b := appendUint(make([]byte, 0, n), fieldNow, zig(t.Now))
	for i := range t.Conds {
		c := &t.Conds[i]
		b = binary.AppendUvarint(append(b, fieldCond), uint64(c.Kind))
		b = appendText(b, fieldPath, c.Path)
		b = appendText(b, fieldValue, c.Value)
		b = appendUint(b, fieldIndex, c.Index)
		b = appendText(b, fieldOwner, c.Owner)
		if c.Flat {
			b = append(b, fieldFlat, 1)
		}
	}
	for i := range t.Ops {
		o := &t.Ops[i]
		b = binary.AppendUvarint(append(b, fieldOp), uint64(o.Kind))
		b = appendUint(b, fieldAction, uint64(o.Action))
		b = appendUint(b, fieldFlags, uint64(o.Flags))
		b = appendText(b, fieldPath, o.Path)
		b = appendText(b, fieldValue, o.Value)
		b = appendUint(b, fieldUserFlags, o.UserFlags)
		b = appendUint(b, fieldExpires, zig(o.Expires))
		b = appendText(b, fieldOwner, o.Owner)
		b = appendText(b, fieldOwnerPath, o.OwnerPath)
		b = appendUint(b, fieldCutoff, zig(o.Cutoff))
		b = appendUint(b, fieldExtend, zig(o.Extend))
	}
	return b
}

// UnmarshalTxn decodes what Marshal made. The result shares no memory with b. The error is a *TxnError with Code
// BadVersion when b holds a field this program does not know, else BadTxn.
func UnmarshalTxn(b []byte) (Txn, error) {
	t, err := unmarshalTxn(b)
	if err != nil {
		return Txn{}, err
	}
	return t, nil
}

func unmarshalTxn(b []byte) (t Txn, bad *TxnError) {
	refuse := func(code Code, at int, text string) *TxnError {
		return &TxnError{Code: code, Cond: -1, Op: -1, Text: fmt.Sprintf("txn of %d bytes, at byte %d: %s", len(b), at, text)}
	}
	var c *Cond
	var o *Op
	for at := 0; at < len(b); {
		tag, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return t, refuse(BadTxn, at, "want a field tag")
		}
		start := at
		at += n
		num, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return t, refuse(BadTxn, at, "want a number")
		}
		at += n
		var text string
		if tag&1 == 1 {
			if num > uint64(len(b)-at) {
				return t, refuse(BadTxn, at, "text is cut off")
			}
			text = string(b[at : at+int(num)])
			at += int(num)
		}
		switch {
		case tag == fieldNow:
			t.Now = unzig(num)
		case tag == fieldCond || tag == fieldOp:
			if num > 255 {
				return t, refuse(BadVersion, start, "unknown kind")
			}
			c, o = nil, nil
			if tag == fieldCond {
				if len(t.Conds) == MaxOps {
					return t, refuse(BadTxn, start, "too many conditions")
				}
				t.Conds = append(t.Conds, Cond{Kind: CondKind(num)})
				c = &t.Conds[len(t.Conds)-1]
			} else {
				if len(t.Ops) == MaxOps {
					return t, refuse(BadTxn, start, "too many operations")
				}
				t.Ops = append(t.Ops, Op{Kind: OpKind(num)})
				o = &t.Ops[len(t.Ops)-1]
			}
		case c != nil && c.field(tag, num, text), o != nil && o.field(tag, num, text):
		default:
			return t, refuse(BadVersion, start, fmt.Sprintf("unknown field %d", tag>>1))
		}
	}
	return t, nil
}

func (c *Cond) field(tag, num uint64, text string) bool {
	switch tag {
	case fieldPath:
		c.Path = text
	case fieldValue:
		c.Value = text
	case fieldIndex:
		c.Index = num
	case fieldOwner:
		c.Owner = text
	case fieldFlat:
		c.Flat = num != 0
	default:
		return false
	}
	return true
}

func (o *Op) field(tag, num uint64, text string) bool {
	switch tag {
	case fieldPath:
		o.Path = text
	case fieldValue:
		o.Value = text
	case fieldAction:
		o.Action = Action(num)
		return num <= 255
	case fieldFlags:
		o.Flags = OpFlags(num)
		return num <= 1<<16-1
	case fieldUserFlags:
		o.UserFlags = num
	case fieldExpires:
		o.Expires = unzig(num)
	case fieldOwner:
		o.Owner = text
	case fieldOwnerPath:
		o.OwnerPath = text
	case fieldCutoff:
		o.Cutoff = unzig(num)
	case fieldExtend:
		o.Extend = unzig(num)
	default:
		return false
	}
	return true
}
