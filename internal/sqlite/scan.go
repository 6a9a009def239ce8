package sqlite

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// argument converts a value for binding. Times are refused: they are stored as microseconds, made with store.Micros, so that
// both databases compare and index them alike.
func argument(a any) (driver.Value, error) {
	switch v := a.(type) {
	case nil:
		return nil, nil
	case string, int64, bool, float64:
		return v, nil
	case int:
		return int64(v), nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return v, nil
	case time.Time, *time.Time:
		return nil, errors.New("times are stored as microseconds: use store.Micros")
	}
	v, err := driver.DefaultParameterConverter.ConvertValue(a)
	if err != nil {
		return nil, err
	}
	switch b := v.(type) {
	case time.Time:
		return nil, errors.New("times are stored as microseconds: use store.Micros")
	case []byte:
		if b == nil {
			return nil, nil
		}
	}
	return v, nil
}

// assign stores a column's value in what dest points to. NULL goes only into []byte, any, pointers and Scanners.
func assign(dest any, v driver.Value) error {
	switch d := dest.(type) {
	case *string:
		switch s := v.(type) {
		case string:
			*d = s
			return nil
		case []byte:
			*d = string(s)
			return nil
		}
	case *int64:
		if n, ok := v.(int64); ok {
			*d = n
			return nil
		}
	case *[]byte:
		return assignBytes(d, v)
	case *any:
		*d = v
		return nil
	case sql.Scanner:
		return d.Scan(v)
	}
	return assignKind(reflect.ValueOf(dest), v)
}

// assignBytes keeps an empty blob apart from NULL, which the driver hands over as a nil []byte and as nil.
func assignBytes(d *[]byte, v driver.Value) error {
	switch b := v.(type) {
	case nil:
		*d = nil
	case []byte:
		if b == nil {
			b = []byte{}
		}
		*d = b
	case string:
		*d = []byte(b)
	default:
		return fmt.Errorf("cannot store %T in []byte", v)
	}
	return nil
}

func assignKind(dest reflect.Value, v driver.Value) error {
	if dest.Kind() != reflect.Pointer || dest.IsNil() {
		return errors.New("the destination is not a pointer")
	}
	e := dest.Elem()
	if e.Kind() == reflect.Pointer {
		if v == nil {
			e.SetZero()
			return nil
		}
		e.Set(reflect.New(e.Type().Elem()))
		return assign(e.Interface(), v)
	}
	switch v := v.(type) {
	case int64:
		return assignInt(e, v)
	case float64:
		if e.Kind() == reflect.Float64 {
			e.SetFloat(v)
			return nil
		}
	case string:
		return assignText(e, v)
	case []byte:
		return assignText(e, string(v))
	case nil:
		return fmt.Errorf("NULL cannot be stored in %s", e.Type())
	}
	return fmt.Errorf("%T cannot be stored in %s", v, e.Type())
}

func assignText(e reflect.Value, s string) error {
	switch {
	case e.Kind() == reflect.String:
		e.SetString(s)
	case e.Kind() == reflect.Slice && e.Type().Elem().Kind() == reflect.Uint8:
		e.SetBytes([]byte(s))
	default:
		return fmt.Errorf("text cannot be stored in %s", e.Type())
	}
	return nil
}

func assignInt(e reflect.Value, n int64) error {
	switch {
	case e.CanInt() && !e.OverflowInt(n):
		e.SetInt(n)
	case e.CanUint() && n >= 0 && !e.OverflowUint(uint64(n)):
		e.SetUint(uint64(n))
	case e.Kind() == reflect.Bool && (n == 0 || n == 1):
		e.SetBool(n == 1)
	case e.Kind() == reflect.Float64 && n >= -1<<53 && n <= 1<<53:
		e.SetFloat(float64(n))
	default:
		return fmt.Errorf("%d cannot be stored in %s", n, e.Type())
	}
	return nil
}
