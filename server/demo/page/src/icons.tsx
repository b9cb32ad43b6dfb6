/** The page's icons, drawn in one weight. They only accompany words or labels, so they are hidden from screen readers. */

const PATHS = {
  sync: 'M4.5 9.5a7.5 7.5 0 0 1 13-2.600M18 3.500v4h-4M19.500 14.500a7.500 7.500 0 0 1-13 2.600M6 20.500v-4h4',
  laptop: 'M5 6.500A1.500 1.500 0 0 1 6.500 5h11A1.500 1.500 0 0 1 19 6.500V15H5zM3 18.500h18',
  phone: 'M8.500 3h7A1.500 1.500 0 0 1 17 4.500v15a1.500 1.500 0 0 1-1.500 1.500h-7A1.500 1.500 0 0 1 7 19.500v-15A1.500 1.500 0 0 1 8.500 3zM11 18h2',
  tablet: 'M6.500 3h11A1.500 1.500 0 0 1 19 4.500v15a1.500 1.500 0 0 1-1.500 1.500h-11A1.500 1.500 0 0 1 5 19.500v-15A1.500 1.500 0 0 1 6.500 3zM11 18h2',
  plus: 'M12 5v14M5 12h14',
  compose: 'M12 5H6.500A1.500 1.500 0 0 0 5 6.500v11A1.500 1.500 0 0 0 6.500 19h11a1.500 1.500 0 0 0 1.500-1.500V12M18.200 4.300a1.600 1.600 0 0 1 2.300 2.300L13 14l-3 .800.800-3z',
  pencil: 'M4.500 19.500l.9-3.900L16.300 4.700a2.100 2.100 0 0 1 3 3L8.400 18.600zM14.500 6.500l3 3',
  bin: 'M5 7h14M10 7V5h4v2M7 7l.7 11.600a1.500 1.500 0 0 0 1.500 1.400h5.600a1.500 1.500 0 0 0 1.500-1.400L17 7M10.300 11v5M13.700 11v5',
  close: 'M6.500 6.500l11 11M17.500 6.500l-11 11',
  back: 'M14.500 5.500L8 12l6.500 6.500',
  up: 'M12 19V5.500M6 11l6-6 6 6',
  down: 'M12 5v13.500M6 13l6 6 6-6',
  tick: 'M5 12.500l4.500 4.500L19 7.500',
  ticks: 'M2.500 12.500L7 17l9-9.500M12 16l1 1 8.500-9.500',
  clock: 'M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16zM12 8v4.300l2.800 1.700',
  alert: 'M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16zM12 8v4.700M12 15.800v.200',
  sun: 'M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400',
  moon: 'M20 14.500A8.200 8.200 0 0 1 9.500 4a8.200 8.200 0 1 0 10.500 10.500z',
  chevron: 'M8 10l4 4 4-4',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { readonly name: IconName; readonly size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
