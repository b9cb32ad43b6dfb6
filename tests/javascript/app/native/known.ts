/** Types that are not found are `any`, which fits everything. */

import type { open } from '@op-engineering/op-sqlite';
import type { openDatabaseAsync } from 'expo-sqlite';
import type { AppState } from 'react-native';

type Known<T> = 0 extends 1 & T ? never : true;
type Expo = Awaited<ReturnType<typeof openDatabaseAsync>>;
type Op = ReturnType<typeof open>;

export const known: [
  Known<Parameters<Expo['runAsync']>[1]>,
  Known<Awaited<ReturnType<Expo['getAllAsync']>>>,
  Known<Parameters<Op['execute']>[1]>,
  Known<Awaited<ReturnType<Op['execute']>>['rows']>,
  Known<Parameters<typeof AppState.addEventListener>[1]>,
] = [true, true, true, true, true];
