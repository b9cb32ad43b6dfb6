/**
 * The schema: which kinds of rows there are, with which columns, as a literal that `atlas-sync schema --typescript`
 * writes. The types of rows and writes derive from it.
 */

import type { Instant, Uuid } from './rows.js';

/** An instant is never the whole key. */
export type KeyType = 'uuid' | 'text' | 'int' | 'bigint' | 'instant';
export type ColumnType = KeyType | 'bool' | 'float' | 'numeric' | 'date' | 'json' | 'array' | 'bytes';

/** What a device may write of a kind. */
export interface DevicesSchema {
  readonly insert?: readonly string[];
  readonly update?: readonly string[];
  readonly delete?: boolean;
  /** The columns that take the instant of the write. */
  readonly created?: string;
  readonly updated?: string;
  /** The column of the parent that an insert raises to its instant. */
  readonly touches?: string;
}

export interface KindSchema {
  readonly name: string;
  /** What its rows are called on the wire. */
  readonly tag: string;
  readonly key: readonly string[];
  /**
   * The name of the kind that its rows belong to. The first column is that row's key. If the parent has a parent, the
   * second column is the key of that one, which the server sets.
   */
  readonly parent?: string;
  /** Names as on the wire; a type that ends with `?` may be nil. */
  readonly columns: readonly (readonly [name: string, type: string])[];
  /** The column that orders lists and pages, the newest first; without it the key does. */
  readonly newest?: string;
  /** How many rows a new device gets, of each parent; without it: all. */
  readonly window?: number;
  /** The column by which the table is partitioned: an update or deletion names its value, too. */
  readonly dated?: string;
  readonly devices?: DevicesSchema;
  /** Bytes of UTF-8, or the values that a device may write. */
  readonly limits?: Readonly<Record<string, number | readonly unknown[]>>;
}

export interface Schema {
  /** As the server computed it. */
  readonly hash: string;
  readonly kinds: readonly KindSchema[];
}

// ---- Types derived from a literal ----

type Lower =
  | 'a' | 'b' | 'c' | 'd' | 'e' | 'f' | 'g' | 'h' | 'i' | 'j' | 'k' | 'l' | 'm'
  | 'n' | 'o' | 'p' | 'q' | 'r' | 's' | 't' | 'u' | 'v' | 'w' | 'x' | 'y' | 'z'; // prettier-ignore

type Joined<S extends string> = S extends `${infer Head}_${infer Tail}`
  ? Head extends ''
    ? `_${Joined<Tail>}`
    : Tail extends `${Lower}${string}`
      ? `${Head}${Capitalize<Joined<Tail>>}`
      : `${Head}_${Joined<Tail>}`
  : S;

/** Properties of a shown row that are no columns. */
export const RESERVED = ['kind', 'seq', 'id', 'state', 'key', 'code', 'reason', 'hole', 'streaming', 'stream'] as const;

/** `created_at` is `createdAt` here. A column named like a property of every row gets an underscore: `key_`. */
export type Camel<S extends string> = Joined<S> extends (typeof RESERVED)[number] ? `${Joined<S>}_` : Joined<S>;

interface Values {
  uuid: Uuid;
  text: string;
  int: number;
  bigint: number | bigint;
  bool: boolean;
  float: number;
  /** Decimal digits, or `NaN`. */
  numeric: string;
  instant: Instant;
  /** `YYYY-MM-DD`, or `infinity`. */
  date: string;
  json: unknown;
  array: readonly unknown[];
  bytes: Uint8Array;
}

type ValueOf<T extends string> = T extends `${infer Base}?`
  ? ValueOf<Base> | null
  : T extends keyof Values
    ? Values[T]
    : unknown;

type KindsOf<S extends Schema> = S['kinds'][number];
export type KindName<S extends Schema> = KindsOf<S>['name'];
/** Of a schema that is not a literal, any kind may have any name. */
type KindOf<S extends Schema, K extends string> =
  string extends KindName<S> ? KindsOf<S> : Extract<KindsOf<S>, { readonly name: K }>;

type IdOfKey<Key extends readonly string[]> = Key extends readonly [infer One extends string]
  ? ValueOf<One>
  : Key extends readonly [infer One extends string, infer Two extends string]
    ? readonly [ValueOf<One>, ValueOf<Two>]
    : Id;

/** The id of a row: its key; an array if the key has two columns. */
export type IdOf<S extends Schema, K extends string> = IdOfKey<KindOf<S, K>['key']>;

/** The id of a row's parent; null for a kind without one. */
export type ParentOf<S extends Schema, K extends string> =
  KindOf<S, K> extends { readonly parent: infer P extends string } ? IdOf<S, P> : null;

type ColumnsOf<S extends Schema, K extends string> = KindOf<S, K>['columns'][number];
type NamedIn<S extends Schema, K extends string, What extends string> =
  KindOf<S, K> extends { readonly devices: { readonly [W in What]: readonly (infer N extends string)[] } } ? N : never;
type HomeColumn<S extends Schema, K extends string> =
  KindOf<S, K> extends { readonly parent: string; readonly columns: readonly [readonly [infer N, string], ...infer _] }
    ? N
    : never;

/** A row of a kind, with the properties `kind`, `seq`, `id` and its columns. */
export type RowOf<S extends Schema, K extends string> = {
  readonly kind: K;
  readonly seq: number;
  readonly id: IdOf<S, K>;
} & { readonly [C in ColumnsOf<S, K> as Camel<C[0]>]: ValueOf<C[1]> };

type Written<C extends readonly [string, string], Names> = C extends readonly [Names, string] ? C : never;
type Optional<C extends readonly [string, string]> = C extends readonly [string, `${string}?`] ? C : never;

/** What an insert takes: the columns that a device may write, and the parent's id. Those that may be null may be absent. */
export type NewOf<S extends Schema, K extends string> = NewFrom<
  Written<ColumnsOf<S, K>, NamedIn<S, K, 'insert'> | HomeColumn<S, K>>
>;
type NewFrom<C extends readonly [string, string]> = {
  readonly [D in Exclude<C, Optional<C>> as Camel<D[0]>]: ValueOf<D[1]>;
} & { readonly [D in Optional<C> as Camel<D[0]>]?: ValueOf<D[1]> };

/** What an update takes: some of the columns that a device may update. */
export type PatchOf<S extends Schema, K extends string> = {
  readonly [C in Written<ColumnsOf<S, K>, NamedIn<S, K, 'update'>> as Camel<C[0]>]?: ValueOf<C[1]>;
};

// ---- A schema at run time ----

export type Scalar = string | number | bigint;
export type Id = Scalar | readonly [Scalar, Scalar];

export interface Column {
  /** The name of the property here, and of the column on the wire. */
  readonly name: string;
  readonly wire: string;
  readonly type: ColumnType;
  readonly nullable: boolean;
  /** Bytes of UTF-8, or permitted values, of what a device writes. */
  readonly limit: number | readonly unknown[] | undefined;
}

/** A kind of rows. Columns are properties' names. */
export interface Kind {
  readonly name: string;
  readonly tag: string;
  readonly key: readonly KeyType[];
  readonly parent: Kind | null;
  readonly children: readonly Kind[];
  /** The column that holds the parent's key. */
  readonly home: string | null;
  /** The column that holds the key of the parent's parent. */
  readonly above: string | null;
  readonly columns: ReadonlyMap<string, Column>;
  readonly newest: Column | null;
  readonly window: number | undefined;
  readonly dated: string | null;
  /** What devices may write; null: they may not. */
  readonly insert: readonly string[] | null;
  readonly update: readonly string[] | null;
  readonly delete: boolean;
  readonly created: string | null;
  readonly updated: string | null;
  /** A column of the parent. */
  readonly touches: string | null;
}

/** The kinds of a schema by name, each after its parent. */
export class Kinds extends Map<string, Kind> {
  constructor(
    /** The schema's. */
    readonly hash: string,
  ) {
    super();
  }
}

/** The name of a column's property. */
export function camel(wire: string): string {
  const name = wire.replace(/_([a-z])/g, (all, letter: string, at: number) =>
    at > 0 && wire[at - 1] !== '_' ? letter.toUpperCase() : all,
  );
  return (RESERVED as readonly string[]).includes(name) ? `${name}_` : name;
}

/** The kinds of a schema. Throws TypeError if it makes no sense. */
export function compile(schema: Schema): Kinds {
  const kinds = new Kinds(schema.hash);
  let left = schema.kinds;
  while (left.length > 0) {
    const later = left.filter((given) => {
      if (given.parent !== undefined && !kinds.has(given.parent)) return true;
      const kind = kindFrom(given, kinds.get(given.parent ?? '') ?? null);
      (kind.parent?.children as Kind[] | undefined)?.push(kind);
      kinds.set(kind.name, kind);
      return false;
    });
    if (later.length === left.length) throw new TypeError(`schema: ${left[0]?.name} has no such parent`);
    left = later;
  }
  return kinds;
}

function kindFrom(given: KindSchema, parent: Kind | null): Kind {
  const { name, tag, key, window, limits = {}, devices = {} } = given;
  if (parent?.parent?.parent) throw new TypeError(`schema: ${name} has more than two kinds above it`);
  const columns = new Map<string, Column>();
  for (const [wire, type] of given.columns) {
    const column: Column = {
      name: camel(wire),
      wire,
      type: type.replace('?', '') as ColumnType,
      nullable: type.endsWith('?'),
      limit: limits[wire],
    };
    if (columns.has(column.name)) throw new TypeError(`schema: ${name} has two columns ${column.name}`);
    columns.set(column.name, column);
  }
  const column = (wire: string | undefined): string | null => (wire === undefined ? null : camel(wire));
  return {
    name,
    tag,
    key: key as readonly KeyType[],
    parent,
    children: [],
    home: parent && column(given.columns[0]?.[0]),
    above: parent?.parent ? column(given.columns[1]?.[0]) : null,
    columns,
    newest: columns.get(column(given.newest) ?? '') ?? null,
    window,
    dated: column(given.dated),
    insert: devices.insert?.map(camel) ?? null,
    update: devices.update?.map(camel) ?? null,
    delete: devices.delete ?? false,
    created: column(devices.created),
    updated: column(devices.updated),
    touches: column(devices.touches),
  };
}

/** The part of a schema on which stored rows depend. If it changed, they are stored anew. */
export const shapeOf = (kinds: Kinds): string =>
  JSON.stringify(
    [...kinds.values()].map(({ name, key, parent, newest, columns }): KindShape => ({
      name,
      key,
      parent: parent?.name ?? null,
      newest: newest?.name ?? null,
      columns: Object.fromEntries([...columns.values()].map((column) => [column.name, column.type])),
    })),
  );

/** One of those that `shapeOf` lists. */
export interface KindShape {
  readonly name: string;
  readonly key: readonly KeyType[];
  readonly parent: string | null;
  readonly newest: string | null;
  readonly columns: Readonly<Record<string, ColumnType>>;
}
